// Keys, buttons, sliders, and files dropped or pasted. They change the state of viewer.js.

function change(update, panesAlone = false) {
  if (!data) return;
  Object.assign(view, update);
  refresh(panesAlone);
}

// A setting, which may be changed before there is an image.
function set(update) {
  Object.assign(view, update);
  refresh();
}

let marginTimer = 0;
function setMargin(percent, wait) {
  if (!data) return;
  const slide = find("[data-slide=margin]");
  change({ margin: bounded(percent, Number(slide.min), Number(slide.max)) / 100 });
  clearTimeout(marginTimer);
  if (wait === undefined || !data.lungs || !data.maskings?.loose) return;
  const study = data.study;
  marginTimer = setTimeout(() => {
    // Meanwhile the image may have been cleared, or be another one.
    if (!data || data.study !== study || Math.abs(view.margin - data.maskings.loose.margin) < 0.001) return;
    ask("margin_changed", { margin: view.margin }, "loose");
  }, wait);
}

const presets = {
  file: () => ({ level: 0.5, width: 1, invert: false }),
  lungs: () => ({ ...windowFor("lungs", coarse(), levels, data.lungs?.count), invert: false }),
  bone: () => ({ ...windowFor("bone", coarse(), levels, data.lungs?.count), invert: false }),
  inverted: () => ({ level: 0.5, width: 1, invert: true }),
};

// A level of the picture that is fine enough to choose a window by.
const coarse = () => pyramid().find(({ width, height }) => width * height < 5e5) ?? pyramid().at(-1);

// The windows of the file's own header, beside the one it is read with.
function offerWindows() {
  const select = find("[data-preset]");
  for (const option of [...select.options]) if (option.dataset.own) option.remove();
  const options = data.image.windows.map(({ name, level, width }, i) => {
    const option = new Option(name.toLowerCase() || windowInWords({ level, width }, data.image.range), `own-${i}`);
    option.dataset.own = i;
    return option;
  });
  select.options[0].after(...options);
}

function setPreset(name) {
  if (!picture) return;
  const own = data.image.windows[name.replace(/^own-/, "")];
  const chosen = own ? { level: own.level, width: own.width, invert: false } : presets[name]?.();
  if (chosen) change({ preset: name, ...chosen });
}

const actions = {
  reset: () => change({ ...UPRIGHT, solo: null, opacity: START.opacity, outline: true, heat: true }),
  save: () => { if (data) save(); },
  help: () => find(".cxv-help").showModal(),
  undo, automatic,
  accept: () => { if (data && data.withheld) ask("accept_anyway"); },
  edit: () => {
    setTool("edit");
    find(".cxv-panes").focus(); // so that Enter sets the cross, whatever button had the focus
  },
  plant: () => setTool("plant"),
  unplant: () => { if (data && data.planted) ask("plant_removed"); },
  ruler: () => setTool("ruler"),
  turn: () => change({ turns: (view.turns + 1) % 4 }),
  mirror: () => change({ mirrored: !view.mirrored, turns: view.turns % 2 ? (view.turns + 2) % 4 : view.turns }),
  swap: () => change({ swapped: !view.swapped }),
  download: () => ask("case_wanted", {}, null),
  print: () => window.print(),
  resend: () => data?.again?.(),
  sheet: () => {
    const isOpen = root.toggleAttribute("data-sheet");
    find("[data-do=sheet]").setAttribute("aria-expanded", isOpen);
  },
};

function choose(label) {
  if (!data) return;
  hasChosen = true;
  change({ label });
}

const step = (by) => () => {
  if (!data || !data.labels) return;
  const count = order.length, at = order.indexOf(view.label);
  choose(order[at < 0 ? (by > 0 ? 0 : count - 1) : (at + by + count) % count]);
};

const nextOf = (select) => {
  const open = [...select.options].filter((option) => !option.hidden);
  return open[(open.findIndex((option) => option.selected) + 1) % open.length];
};

const keys = {
  1: () => set({ mode: "none" }), 2: () => set({ mode: "loose" }), 3: () => set({ mode: "tight" }),
  v: () => set({ layout: "pair" }), c: () => set({ layout: "compare" }), g: () => set({ layout: "grid" }),
  m: () => set({ outline: !view.outline }), h: () => set({ heat: !view.heat }),
  u: () => set({ scale: view.scale === "own" ? "shared" : "own" }),
  i: () => change({ invert: !view.invert, preset: "own" }),
  t: actions.turn, j: actions.mirror, l: actions.ruler, n: actions.plant, f: actions.edit,
  w: () => setPreset(nextOf(find("[data-preset]")).value),
  p: () => {
    const select = find("[data-point]");
    if (select.options.length > 1) change({ point: (select.selectedIndex + 1) % select.options.length });
  },
  y: actions.accept, r: actions.reset, s: actions.save, "?": actions.help,
  o: () => document.querySelector(".cxr-open input[type=file]")?.click(),
  "[": () => setMargin(Math.round(view.margin * 100) - 1, 500),
  "]": () => setMargin(Math.round(view.margin * 100) + 1, 500),
  "+": () => data && zoomAt(panes[0], 1.25), "=": () => data && zoomAt(panes[0], 1.25), "-": () => data && zoomAt(panes[0], 0.8),
  ",": () => change({ preset: "own", level: bounded(view.level - 0.02, 0, 1) }), ".": () => change({ preset: "own", level: bounded(view.level + 0.02, 0, 1) }),
  "<": () => change({ preset: "own", width: bounded(view.width - 0.05, 0.05, 2) }), ">": () => change({ preset: "own", width: bounded(view.width + 0.05, 0.05, 2) }),
  ArrowUp: step(-1), ArrowDown: step(1),
};
const crossKeys = {
  ArrowUp: () => moveCross(0, -1), ArrowDown: () => moveCross(0, 1), ArrowLeft: () => moveCross(-1, 0), ArrowRight: () => moveCross(1, 0),
  Enter: () => setCross(), Escape: () => setTool(view.tool),
};
const toolKeys = {
  edit: {
    ...crossKeys,
    a: () => change({ sign: "add" }), d: () => change({ sign: "remove" }),
    b: () => setEdit("brush"), p: () => setEdit("click"), k: () => setEdit("box"),
    z: undo, x: automatic,
    "[": () => change({ brush: bounded(view.brush - 0.01, 0.01, 0.15) }), "]": () => change({ brush: bounded(view.brush + 0.01, 0.01, 0.15) }),
  },
  plant: crossKeys,
  ruler: { Escape: crossKeys.Escape },
};

const setEdit = (editWith) => change({ editWith, corner: null, box: null });

function moveCross(dx, dy) {
  const { width, height } = data.image, pace = Math.max(width, height) / 100;
  const [x, y] = view.crossShown ? view.cross : [width / 2, height / 2];
  const upright = placed(data.image, posedSize(data.image, view), { ...view, zoom: 1 });
  const [u, v] = directionInPicture(upright, [dx * pace, dy * pace]);
  const cross = [bounded(x + u, 0, width), bounded(y + v, 0, height)];
  change({ cross, crossShown: true, box: view.corner ? boxBetween(data.image, view.corner, cross) : null }, true);
}

function setCross() {
  if (!view.crossShown) return moveCross(0, 0);
  if (view.tool === "plant") return askPlant(view.cross);
  const add = view.sign === "add";
  if (view.editWith === "click") return askClick(view.cross, add);
  if (view.editWith === "brush") return askStroke({ points: [view.cross], radius: brushRadius(), add });
  if (!view.corner) return change({ corner: view.cross });
  if (view.box) askBox();
}

// Arrows inside a group of radio buttons or tabs move and choose, as such groups do everywhere.
function moveInGroup(event) {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const group = by && event.target.closest?.(".cxv [role=radiogroup], .cxv [role=tablist]");
  if (!group) return false;
  const buttons = [...group.querySelectorAll("[role=radio], [role=tab]")].filter((button) => button.offsetParent);
  const next = buttons[(buttons.indexOf(event.target) + by + buttons.length) % buttons.length];
  next.click();
  next.focus();
  return true;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || root.offsetParent === null || find(".cxv-help").open) return;
  const target = event.target;
  if (target.matches?.("input:not([type=range]), textarea, select, [contenteditable=true]")) return;
  const isArrow = event.key.startsWith("Arrow");
  if (isArrow && !event.shiftKey && moveInGroup(event)) return event.preventDefault();
  if (isArrow && target.matches("input[type=range], [role=tab]")) return;
  if ((event.key === "Enter" || event.key === " ") && target.closest("button, a, summary")) return;
  const menu = find(".cxv-more");
  if (event.key === "Escape" && menu.open) {
    menu.open = false;
    return menu.querySelector("summary").focus();
  }
  if (event.shiftKey && isArrow && data) {
    event.preventDefault();
    return moveBy(...{ ArrowLeft: [-0.05, 0], ArrowRight: [0.05, 0], ArrowUp: [0, -0.05], ArrowDown: [0, 0.05] }[event.key]);
  }
  const isSingle = event.key.length === 1;
  if (isSingle && !view.keys) return;
  const key = isSingle ? event.key.toLowerCase() : event.key;
  const action = (view.tool && data && toolKeys[view.tool][key]) || keys[key];
  if (!action) return;
  event.preventDefault();
  action();
}

// A file, wherever it was dropped or pasted, is handed to the drop zone.
function open(files) {
  const input = document.querySelector(".cxr-open input[type=file]");
  if (root.offsetParent === null || !input || !files.length) return; // another tab has a drop zone of its own
  input.files = files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

// Starts listening to the page, once.
function takeHands() {
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) {
      if (!event.target.closest(".cxv-more")) find(".cxv-more").open = false;
      return;
    }
    const { mode, layout, scale, kind, fold, sign, tool, toggle } = button.dataset;
    Object.entries({ mode, layout, scale, kind, fold, sign }).forEach(([key, value]) => { if (value) view[key] = value; });
    if (layout) view.solo = null;
    if (tool) setEdit(tool);
    if (toggle) view[toggle] = !view[toggle];
    if (toggle === "invert") view.preset = "own";
    if (button.dataset.do) actions[button.dataset.do]();
    if (button.dataset.again) ask("read_again", { remedy: button.dataset.again });
    if (!button.closest(".cxv-menu") || button.dataset.again || ["save", "print", "help", "download", "ruler", "plant"].includes(button.dataset.do)) find(".cxv-more").open = false;
    refresh();
  });
  all("[data-slide]").forEach((slide) => {
    const key = slide.dataset.slide;
    slide.addEventListener("input", () => {
      if (key === "margin") setMargin(Number(slide.value));
      else set({ [key]: Number(slide.value) / 100, ...(key === "level" || key === "width" ? { preset: "own" } : {}) });
    });
    slide.addEventListener("change", () => { if (key === "margin") setMargin(Number(slide.value), 0); });
  });
  find("[data-point]").addEventListener("change", (event) => change({ point: event.target.selectedIndex }));
  find("[data-preset]").addEventListener("change", (event) => setPreset(event.target.value));
  document.addEventListener("change", (event) => {
    if (!event.target.matches?.(".cxr-open input[type=file]")) return;
    const files = new DataTransfer(), file = event.target.files[0];
    if (file) files.items.add(file);
    opened = { name: file?.name ?? "", again: file ? () => open(files.files) : null };
  }, true);
  document.addEventListener("click", (event) => {
    // Examples, and what is opened from the list of a batch, have no file here.
    const example = event.target.closest?.(".cxr-open .cxr-example");
    if (example) opened = { name: "", again: () => example.click() };
    if (event.target.closest?.(".cxr-list, [role=tabpanel]:not(:has(.cxv))")) opened = { name: "", again: null };
  }, true);
  document.addEventListener("keydown", onKey);
  // Not when the pointer goes down: what is pressed would move away before it is let go of.
  document.addEventListener("click", (event) => { if (!event.target.closest?.(".cxv-more")) find(".cxv-more").open = false; });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.toggleAttribute("data-drop", event.dataTransfer.types.includes("Files"));
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.removeAttribute("data-drop"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    root.removeAttribute("data-drop");
    open(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (!event.target.matches?.("input, textarea")) open(event.clipboardData.files);
  });
  const dark = view.theme;
  if (dark && !new URLSearchParams(location.search).has("__theme")) document.body.classList.toggle("dark", dark === "dark");
  new MutationObserver(remember).observe(document.body, { attributes: true, attributeFilter: ["class"] });
}
