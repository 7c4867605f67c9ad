// Pointer, wheel, keys, sliders and dropped files. They change the state of viewer.js.

function change(update) {
  if (!data) return;
  Object.assign(view, update);
  refresh();
}

function onPicture(pane, event) {
  const area = pane.canvas.getBoundingClientRect();
  const at = place(area.width, area.height);
  return [(event.clientX - area.left - at.ox) / at.scale, (event.clientY - area.top - at.oy) / at.scale];
}

function zoomAt(pane, factor, event) {
  const zoom = bounded(view.zoom * factor, 1, 16);
  const area = pane.canvas.getBoundingClientRect();
  const [u, v] = event ? onPicture(pane, event) : [data.image.width / 2 + view.x, data.image.height / 2 + view.y];
  const dx = event ? event.clientX - area.left - area.width / 2 : 0;
  const dy = event ? event.clientY - area.top - area.height / 2 : 0;
  view.zoom = zoom;
  const { scale } = place(area.width, area.height);
  moveTo(u - dx / scale - data.image.width / 2, v - dy / scale - data.image.height / 2);
}

function moveTo(x, y) {
  change(reachable(data.image, view.zoom, x, y));
}

function listen(pane) {
  const pointers = new Map();
  let drag = null;
  pane.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  pane.canvas.addEventListener("wheel", (event) => {
    if (!data) return;
    event.preventDefault();
    zoomAt(pane, Math.exp(-event.deltaY / 400), event);
  }, { passive: false });
  pane.canvas.addEventListener("dblclick", () => { if (!view.fix) change({ zoom: 1, x: 0, y: 0, level: 0.5, width: 1 }); });
  pane.canvas.addEventListener("pointerdown", (event) => {
    if (!data) return;
    active = panes.indexOf(pane);
    pane.canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    const kind = event.button === 2 ? "window" : view.fix ? view.tool : "move";
    drag = { kind, from: onPicture(pane, event), x: event.clientX, y: event.clientY, view: { ...view }, moved: false };
  });
  pane.canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId) || !drag) return;
    if (pointers.size === 2) {
      const before = distanceBetween(...pointers.values());
      pointers.set(event.pointerId, event);
      drag.moved = true;
      drag.kind = "pinch";
      return zoomAt(pane, distanceBetween(...pointers.values()) / before, middleOf(...pointers.values()));
    }
    pointers.set(event.pointerId, event);
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (Math.hypot(dx, dy) > 3) drag.moved = true;
    if (drag.kind === "window") {
      change({ width: bounded(drag.view.width + dx / 300, 0.05, 2), level: bounded(drag.view.level + dy / 500, 0, 1) });
    } else if (drag.kind === "move") {
      const { scale } = place(pane.canvas.clientWidth, pane.canvas.clientHeight);
      moveTo(drag.view.x - dx / scale, drag.view.y - dy / scale);
    } else if (drag.kind === "box") {
      change({ box: boxBetween(data.image, drag.from, onPicture(pane, event)) });
    }
  });
  const end = (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size || !drag) return;
    if (event.type === "pointerup") {
      if (drag.kind === "box" && drag.moved) askBox();
      if ((drag.kind === "add" || drag.kind === "remove") && !drag.moved) askClick(drag.from, drag.kind === "add");
    }
    drag = null;
  };
  pane.canvas.addEventListener("pointerup", end);
  pane.canvas.addEventListener("pointercancel", end);
}

function askClick([u, v], add) {
  if (u < 0 || v < 0 || u > data.image.width || v > data.image.height) return;
  const [x, y] = toNative(data.image, [u, v]);
  ask("mask_prompt", { kind: "click", x, y, add });
}

function askBox() {
  const box = view.box;
  view.box = null;
  if (box[2] - box[0] < 4 || box[3] - box[1] < 4) return refresh();
  const [x0, y0] = toNative(data.image, box.slice(0, 2));
  const [x1, y1] = toNative(data.image, box.slice(2));
  ask("mask_prompt", { kind: "box", x0, y0, x1, y1 });
}

let marginTimer = 0;
function setMargin(percent, wait) {
  const slide = find("[data-slide=margin]");
  const margin = bounded(percent, Number(slide.min), Number(slide.max)) / 100;
  change({ margin });
  clearTimeout(marginTimer);
  if (wait === undefined || !data || !data.lungs || !(data.maskings && data.maskings.loose)) return;
  const send = () => {
    if (busy) { marginTimer = setTimeout(send, 150); return; }
    if (Math.abs(view.margin - data.maskings.loose.margin) < 0.001) return;
    ask("margin_changed", { margin: view.margin }, "loose");
  };
  marginTimer = setTimeout(send, wait);
}

const actions = {
  reset: () => change(Object.fromEntries(VIEW.map((key) => [key, START[key]]))),
  save: () => { if (data) save(); },
  help: () => find(".cxv-help").showModal(),
  undo: () => ask("mask_undo"),
  automatic: () => ask("mask_reset"),
  accept: () => { if (data && data.withheld) ask("accept_anyway"); },
};

function choose(label) {
  hasChosen = true;
  change({ label });
}

const step = (by) => () => data && data.labels && choose((view.label + by + data.labels.length) % data.labels.length);
const keys = {
  1: () => { view.mode = "none"; refresh(); },
  2: () => { view.mode = "loose"; refresh(); },
  3: () => { view.mode = "tight"; refresh(); },
  v: () => { view.layout = "pair"; refresh(); },
  c: () => { view.layout = "compare"; refresh(); },
  g: () => { view.layout = "grid"; refresh(); },
  m: () => { view.outline = !view.outline; refresh(); },
  h: () => { view.heat = !view.heat; refresh(); },
  i: () => change({ invert: !view.invert }),
  f: () => {
    change({ fix: !view.fix, crossShown: true });
    find(".cxv-panes").focus(); // so that Enter sets the cross, whatever button had the focus
  },
  p: () => {
    const select = find("[data-point]");
    if (!select.hidden) change({ point: (select.selectedIndex + 1) % select.options.length });
  },
  y: actions.accept,
  r: actions.reset, s: actions.save, "?": actions.help,
  o: () => document.querySelector(".cxr-open input[type=file]")?.click(),
  "[": () => setMargin(Math.round(view.margin * 100) - 1, 500),
  "]": () => setMargin(Math.round(view.margin * 100) + 1, 500),
  "+": () => data && zoomAt(panes[0], 1.25), "=": () => data && zoomAt(panes[0], 1.25), "-": () => data && zoomAt(panes[0], 0.8),
  ",": () => change({ level: bounded(view.level - 0.02, 0, 1) }), ".": () => change({ level: bounded(view.level + 0.02, 0, 1) }),
  "<": () => change({ width: bounded(view.width - 0.05, 0.05, 2) }), ">": () => change({ width: bounded(view.width + 0.05, 0.05, 2) }),
  ArrowUp: step(-1), ArrowDown: step(1),
};
const fixKeys = {
  a: () => setTool("add"), d: () => setTool("remove"), b: () => setTool("box"),
  z: actions.undo, x: actions.automatic, Escape: () => change({ fix: false, corner: null, box: null }),
  Enter: () => setCross(),
  ArrowUp: () => moveCross(0, -1), ArrowDown: () => moveCross(0, 1), ArrowLeft: () => moveCross(-1, 0), ArrowRight: () => moveCross(1, 0),
};

function setTool(tool) {
  change({ tool, corner: null, box: null });
}

function moveCross(dx, dy) {
  const pace = Math.max(data.image.width, data.image.height) / 100;
  const [x, y] = view.cross;
  const cross = [bounded(x + dx * pace, 0, data.image.width), bounded(y + dy * pace, 0, data.image.height)];
  const box = view.corner ? boxBetween(data.image, view.corner, cross) : null;
  change({ cross, crossShown: true, box });
}

function setCross() {
  if (view.tool !== "box") return askClick(view.cross, view.tool === "add");
  if (!view.corner) return change({ corner: view.cross });
  view.corner = null;
  askBox();
}

// Starts listening to the page, once.
function takeHands() {
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { mode, layout, tool, toggle } = button.dataset;
    if (mode) view.mode = mode;
    if (layout) view.layout = layout;
    if (tool) setTool(tool);
    if (toggle && (data || toggle !== "fix")) view[toggle] = !view[toggle];
    if (button.dataset.do) actions[button.dataset.do]();
    refresh();
  });

  all("[data-slide]").forEach((slide) => {
    slide.addEventListener("input", () => {
      if (slide.dataset.slide === "margin") setMargin(Number(slide.value));
      else change({ [slide.dataset.slide]: Number(slide.value) / 100 });
    });
    slide.addEventListener("change", () => { if (slide.dataset.slide === "margin") setMargin(Number(slide.value), 0); });
  });
  find("[data-point]").addEventListener("change", (event) => change({ point: event.target.selectedIndex }));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || root.offsetParent === null || find(".cxv-help").open) return;
    const target = event.target;
    if (target.matches?.("input:not([type=range]), textarea, select, [contenteditable=true]")) return;
    const isArrow = event.key.startsWith("Arrow");
    if (isArrow && (target.matches("input[type=range], [role=tab]"))) return;
    if (event.key === "Enter" && target.closest("button, a, summary")) return;
    if (event.shiftKey && isArrow && data) {
      const reach = Math.max(data.image.width, data.image.height) / (20 * view.zoom);
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      event.preventDefault();
      return moveTo(view.x + dx * reach, view.y + dy * reach);
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = (view.fix && data && fixKeys[key]) || keys[key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  // A file may be dropped anywhere: it is handed to the drop zone.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    if (root.offsetParent === null) return; // another tab is open, with a drop zone of its own
    const input = document.querySelector(".cxr-open input[type=file]");
    if (!input || !event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
