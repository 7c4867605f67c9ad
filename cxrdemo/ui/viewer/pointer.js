// What the pointer does on a pane: pan, zoom, window, and the tools that are dragged or clicked.
// Positions are in pixels of the picture as sent, whatever pose it is looked at in.

const MOST_ZOOM = 16;

function onPicture(pane, event) {
  const area = pane.film.getBoundingClientRect();
  return toPicture(place(area.width, area.height), [event.clientX - area.left, event.clientY - area.top]);
}

// Zooms so that what lies under the pointer stays there; without one, what lies in the middle.
function zoomAt(pane, factor, event) {
  const area = pane.film.getBoundingClientRect();
  const { width, height } = data.image;
  const fixed = event ? onPicture(pane, event) : [width / 2 + view.x, height / 2 + view.y];
  view.zoom = bounded(view.zoom * factor, 1, MOST_ZOOM);
  const off = event ? [event.clientX - area.left - area.width / 2, event.clientY - area.top - area.height / 2] : [0, 0];
  const [dx, dy] = directionInPicture(place(area.width, area.height), off);
  moveTo(fixed[0] - dx - width / 2, fixed[1] - dy - height / 2);
}

function moveTo(x, y) {
  change(reachable(data.image, view.zoom, x, y), true);
}

// Moves the view by shares of what is seen, as the pane has it: right and down.
function moveBy(across, down) {
  const { width, height } = data.image, reach = Math.max(width, height) / view.zoom;
  const at = placed(data.image, posedSize(data.image, view), { ...view, zoom: 1 });
  const [dx, dy] = directionInPicture(at, [across * reach, down * reach]);
  moveTo(view.x + dx, view.y + dy);
}

// What a press on a pane does, by tool, button and zoom.
function dragKind(event) {
  const isSecond = event.button === 2 || event.altKey;
  if (view.tool === "edit") return { kind: view.editWith, add: (view.sign === "add") !== isSecond };
  if (view.tool === "ruler") return { kind: isSecond ? "window" : "ruler" };
  if (view.tool === "plant") return { kind: isSecond ? "window" : "plant" };
  if (isSecond || (view.zoom === 1 && event.pointerType === "mouse")) return { kind: "window" };
  return { kind: "move" };
}

// A window follows the pointer: across its width, down its level.
function windowDragged({ level, width }, dx, dy) {
  return { preset: "own", width: bounded(width + dx / 300, 0.01, 2), level: bounded(level + dy / 500, 0, 1) };
}

// What is told at the foot of the page, worked out anew with each frame: of the place under the
// pointer, of a window being changed; else how much of the file is on the screen.
let pointed = () => "";
function tell(text) {
  pointed = text;
  showPointed();
}

function showPointed() {
  const shown = data && picture ? sizeInWords(data.image, pyramid()[0], Boolean(fine)) : "";
  find("[data-out=pixel]").textContent = (data && pointed()) || shown;
}

function listen(pane) {
  const pointers = new Map();
  let drag = null, holding = 0;
  const { film } = pane;
  film.addEventListener("contextmenu", (event) => event.preventDefault());
  film.addEventListener("wheel", (event) => {
    if (!data) return;
    event.preventDefault();
    zoomAt(pane, Math.exp(-event.deltaY / 400), event);
  }, { passive: false });
  film.addEventListener("dblclick", () => {
    if (data && !view.tool) change({ solo: view.solo === null && panes.length > 1 ? panes.indexOf(pane) : null });
  });
  film.addEventListener("pointerdown", (event) => {
    if (!data) return;
    film.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    const from = onPicture(pane, event);
    drag = { ...dragKind(event), from, x: event.clientX, y: event.clientY, view: { ...view }, moved: false };
    if (drag.kind === "brush") change({ stroke: { points: [from], radius: brushRadius(), add: drag.add }, crossShown: false }, true);
    if (event.pointerType === "touch" && !view.tool) holding = setTimeout(() => set({ hold: true }), 350);
  });
  film.addEventListener("pointermove", (event) => {
    if (data && !pointers.size) {
      const point = onPicture(pane, event);
      tell(() => pixelText(point));
    }
    if (data && view.tool === "edit" && !pointers.size && event.pointerType === "mouse") change({ cross: onPicture(pane, event), crossShown: true }, true);
    if (!pointers.has(event.pointerId) || !drag) return;
    if (pointers.size === 2) {
      clearTimeout(holding);
      const before = distanceBetween(...pointers.values());
      pointers.set(event.pointerId, event);
      Object.assign(drag, { moved: true, kind: "pinch" });
      view.stroke = null;
      return zoomAt(pane, distanceBetween(...pointers.values()) / before, middleOf(...pointers.values()));
    }
    pointers.set(event.pointerId, event);
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (Math.hypot(dx, dy) > 3) {
      drag.moved = true;
      clearTimeout(holding);
    }
    if (!drag.moved) return;
    const to = onPicture(pane, event);
    if (drag.kind === "window") {
      change(windowDragged(drag.view, dx, dy), true);
      tell(windowText);
    } else if (drag.kind === "move") {
      const [u, v] = directionInPicture(place(film.clientWidth, film.clientHeight), [dx, dy]);
      moveTo(drag.view.x - u, drag.view.y - v);
    } else if (drag.kind === "box") change({ box: boxBetween(data.image, drag.from, to) }, true);
    else if (drag.kind === "ruler") change({ length: [drag.from, to] }, true);
    else if (drag.kind === "brush" && view.stroke) {
      // Points closer together than the brush can show are not worth sending.
      const [x, y] = view.stroke.points.at(-1);
      if (Math.hypot(to[0] - x, to[1] - y) < view.stroke.radius / 6) return;
      view.stroke.points.push(to);
      refresh(true);
    }
  });
  const end = (event) => {
    clearTimeout(holding);
    if (view.hold) set({ hold: false });
    pointers.delete(event.pointerId);
    if (pointers.size || !drag) return;
    const { kind, from, add, moved } = drag;
    drag = null;
    const stroke = view.stroke;
    view.stroke = null;
    if (event.type !== "pointerup") return refresh(true);
    if (kind === "box" && moved && view.box) askBox();
    if (kind === "click" && !moved) askClick(from, add);
    if (kind === "brush" && stroke) askStroke(stroke);
    if (kind === "plant" && !moved) askPlant(from);
  };
  film.addEventListener("pointerup", end);
  film.addEventListener("pointercancel", end);
  film.addEventListener("pointerleave", () => tell(() => ""));
}
