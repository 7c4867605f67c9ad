// The panes: what each shows, and how it is drawn. The film, which the graphics card draws or
// `compose`, and over it the marks: outlines, the hottest spot, tools, a scale bar. They read the
// state of viewer.js.

// Of films drawn without a card: of all together while something changes, and of each at rest.
const QUICK_PX = 8e5, FINEST_PX = 2.5e6;

const isNarrow = () => window.matchMedia("(max-width: 900px)").matches;

function wanted() {
  const value = (mode, i) => (reading(mode) ? `${data.labels[i].name} ${reading(mode).findings[i].p.toFixed(2)}` : "");
  const method = reading()?.method ?? "Heat";
  const name = NAMES[view.mode];
  const label = view.label;
  const about = label === null || !reading() ? "" : ` · ${value(view.mode, label)}`;
  const difference = (mode) => {
    if (mode === "none" || label === null || !reading(mode) || !reading("none")) return "";
    return ` (${differenceText(reading(mode).findings[label].p, reading("none").findings[label].p)})`;
  };
  if (view.layout === "compare") {
    return MODES.map((mode) => ({
      mode, masked: true, heat: label, chips: true,
      title: `${NAMES[mode]}${label === null || !reading(mode) ? "" : ` · ${value(mode, label)}${difference(mode)}`}`,
    }));
  }
  if (view.layout === "grid" && data && data.labels) {
    const plain = { mode: view.mode, masked: true, heat: null, title: `Given to the network: ${name}` };
    return [plain, ...order.map((i) => ({ mode: view.mode, masked: false, heat: i, title: reading() ? value(view.mode, i) : data.labels[i].name }))];
  }
  if (isNarrow()) return [{ mode: view.mode, masked: true, heat: label, chips: true, title: `${name}${about}` }];
  return [
    { mode: view.mode, masked: true, heat: null, title: `Given to the network: ${name}${fileName && ` · ${fileName}`}` },
    { mode: view.mode, masked: false, heat: label, chips: true, title: label === null ? `${method}: no finding chosen` : `${method}${about}` },
  ];
}

function layOut() {
  const specs = wanted();
  const holder = find(".cxv-panes");
  if (view.solo !== null && view.solo >= specs.length) view.solo = null;
  while (panes.length > specs.length) panes.pop().box.remove();
  while (panes.length < specs.length) {
    const box = make("div", "cxv-pane");
    const film = make("canvas", "cxv-film"), marks = make("canvas", "cxv-marks");
    film.setAttribute("role", "img");
    marks.setAttribute("aria-hidden", "true");
    const title = make("span", "cxv-title"), chips = make("span", "cxv-chips");
    const right = make("span", "cxv-r", "R"), left = make("span", "cxv-l", "L");
    box.append(film, marks, title, chips, right, left);
    holder.append(box);
    const pane = { box, film, screen: film.getContext("bitmaprenderer"), marks, title, chips, right, left, spec: null, key: null };
    panes.push(pane);
    listen(pane);
  }
  holder.dataset.panes = view.solo === null ? specs.length : 1;
  const edges = sideEdges(view, view.swapped);
  const isAssumed = data && data.image.sides === "assumed" && !view.swapped;
  panes.forEach((pane, i) => {
    pane.spec = specs[i];
    pane.box.hidden = view.solo !== null && view.solo !== i;
    pane.title.textContent = data ? `${data.planted ? "SYNTHETIC lesion · " : ""}${specs[i].title}` : "";
    pane.right.dataset.at = edges.right;
    pane.left.dataset.at = edges.left;
    pane.right.textContent = isAssumed ? "R?" : "R";
    pane.left.textContent = isAssumed ? "L?" : "L";
    showChips(pane);
    pane.film.setAttribute("aria-label", data ? `X-ray: ${specs[i].title}${hasHeat(specs[i]) ? ", with heat" : ""}` : "No image yet");
  });
}

const hasHeat = (spec) => view.heat && !view.hold && spec.heat !== null;

function showChips(pane) {
  const { mode, heat, chips } = pane.spec;
  const masking = chips && view.heat && heat !== null ? reading(mode) : null;
  const told = masking && (data.lungs ? heatChips(masking.findings[heat], masking) : null);
  const lines = told ?? (masking && Math.max(...masking.heat[heat].cells) <= 0 ? [{ text: "no heat for this finding", isWarning: false }] : []);
  pane.chips.replaceChildren(...lines.map(({ text, isWarning }) => {
    const chip = make("span", "cxv-chip", text);
    chip.toggleAttribute("data-warning", isWarning);
    return chip;
  }));
}

const place = (width, height) => placed(data.image, { width, height }, view);

// How many pixels of the screen one of the picture takes.
function deviceScale() {
  const pane = panes.find(({ box }) => !box.hidden);
  return pane && data ? place(pane.film.clientWidth, pane.film.clientHeight).scale * Math.min(window.devicePixelRatio || 1, 2) : 0;
}

// ---- What is drawn --------------------------------------------------------------------------------

// The grey levels looked at: of the image, as finely as they are here, or of the one with a lesion.
const pyramid = () => (data.planted && planted ? planted : fine ?? picture).pyramid;

// Made once for each thing sent, and kept as long as it is.
function once(make) {
  const made = new WeakMap();
  return (of) => {
    if (!made.has(of)) made.set(of, make(of));
    return made.get(of);
  };
}

const topOf = once((heat) => Math.max(...heat.cells));
const contourAtHalf = once((heat) => (topOf(heat) > 0 ? contourOf(heat, topOf(heat) / 2) : []));
const outlinesOf = once((lungs) => Object.entries(lungs.outlines).map(([side, polygons]) => [side, pathOf(polygons)]));

function pathOf(polygons) {
  const path = new Path2D();
  for (const points of polygons) {
    rounded(points).forEach(([x0, y0, x, y, x1, y1], i) => {
      if (i) path.lineTo(x0, y0);
      else path.moveTo(x0, y0);
      path.quadraticCurveTo(x, y, x1, y1);
    });
    path.closePath();
  }
  return path;
}

const heatOf = (mode, label) => reading(mode)?.heat[label] ?? null;

const levelOf = (margin) => Math.round(margin / data.lungs.step);

// What a masking keeps, for every limit of the margin that was looked at.
const limitsOf = once(() => new Map());
function keptUpTo(limit) {
  const made = limitsOf(levels);
  if (!made.has(limit)) made.set(limit, keptOf(levels, limit));
  return made.get(limit);
}

// What is to be drawn for one pane, for `compose` or the renderer.
function ingredients(spec, width, height, at) {
  const read = reading(spec.mode);
  const heat = hasHeat(spec) ? heatOf(spec.mode, spec.heat) : null;
  const peak = heat && (view.scale === "own" ? topOf(heat) : shown().peak);
  // A picture follows the slider; heat stays within what it was found in.
  const margin = { none: null, loose: spec.masked || !read ? view.margin : read.margin, tight: 0 }[spec.mode];
  const kept = levels && margin !== null && (spec.masked || heat) ? keptUpTo(levelOf(margin)) : null;
  return {
    pyramid: pyramid(), width, height, at, picture: data.image,
    window: { level: view.level, width: view.width, invert: view.invert },
    kept, fill: kept && spec.masked ? (read ? read.fill : 0) : null,
    heat: heat && peak > 0 ? { ...heat, peak, confined: read.confined, opacity: view.opacity * (called(spec.mode, spec.heat) ? 1 : FADED), ramp: data.ramp, colours: data.colours } : null,
  };
}

// Two films of the same key look the same.
const keyOf = ({ pyramid, width, height, at, window, kept, fill, heat }) => [
  pyramid, width, height, ...Object.values(at), ...Object.values(window), kept, fill, heat?.cells, heat?.peak, heat?.opacity,
];
const isSame = (a, b) => a !== null && a.length === b.length && a.every((part, i) => part === b[i]);

// ---- Drawing ----------------------------------------------------------------------------------------

let sharpening = 0;
function drawPanes(isAtRest = false) {
  clearTimeout(sharpening);
  const seen = panes.filter(({ box }) => !box.hidden);
  const most = isAtRest ? FINEST_PX : Math.min(FINEST_PX, QUICK_PX / seen.length);
  const areRough = seen.map((pane) => draw(pane, most));
  if (!isAtRest && areRough.some(Boolean)) sharpening = setTimeout(() => drawPanes(true), 150);
}

// Draws a pane, without a card of at most so many pixels. The answer: whether it is rougher than it
// will be at rest.
function draw(pane, most) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(pane.film.clientWidth * ratio));
  const height = Math.max(1, Math.round(pane.film.clientHeight * ratio));
  for (const [side, size] of Object.entries({ width, height })) if (pane.marks[side] !== size) pane.marks[side] = size;
  const context = pane.marks.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!picture) {
    pane.screen.transferFromImageBitmap(null);
    pane.key = null;
    return false;
  }
  const at = place(width, height), parts = ingredients(pane.spec, width, height, at);
  const hasCard = renderer !== null && renderer.takes(parts.pyramid);
  const key = [hasCard, ...keyOf(parts)], isRough = !hasCard && most < Math.min(FINEST_PX, width * height);
  // A film at rest stays when something else is drawn anew.
  if (!isSame(pane.key, key) || pane.isRough) {
    const bitmap = hasCard ? renderer.draw(parts) : filmOf(parts, most);
    // Or the canvas keeps another size of its own, by which it is printed.
    for (const side of ["width", "height"]) if (pane.film[side] !== bitmap[side]) pane.film[side] = bitmap[side];
    pane.screen.transferFromImageBitmap(bitmap);
    Object.assign(pane, { key, isRough });
  }
  drawMarks(context, pane.spec, parts, ratio);
  return pane.isRough;
}

// A film drawn without a card, of at most so many pixels.
function filmOf(parts, most = Infinity) {
  const share = Math.min(1, Math.sqrt(most / (parts.width * parts.height)));
  const width = Math.max(1, Math.floor(parts.width * share)), height = Math.max(1, Math.floor(parts.height * share));
  const at = share === 1 ? parts.at : Object.fromEntries(Object.entries(parts.at).map(([key, value]) => [key, value * share]));
  const canvas = new OffscreenCanvas(width, height);
  const source = greyOf(parts.pyramid, width, height, at);
  canvas.getContext("2d").putImageData(new ImageData(compose({ ...parts, source, width, height, at }), width, height), 0, 0);
  return canvas.transferToImageBitmap();
}

// The grey levels as last resampled: a toggle, a slider or another pane needs the same.
let lastGrey = { key: null, values: null };
function greyOf(pyramid, width, height, at) {
  const key = [pyramid, width, height, ...Object.values(at)];
  if (!isSame(lastGrey.key, key)) lastGrey = { key, values: resampled(pyramid, width, height, at, data.image) };
  return lastGrey.values;
}

// A pane as it is seen, on a canvas of its own: for Save. The card's films are bound to the screen.
function paint(context, { spec, right, left }, width, height, at, ratio) {
  const parts = ingredients(spec, width, height, at);
  context.drawImage(filmOf(parts), 0, 0);
  drawMarks(context, spec, parts, ratio);
  for (const side of [right, left]) {
    const across = { left: 10 * ratio, right: width - 24 * ratio }, down = { top: 16 * ratio, bottom: height - 28 * ratio };
    const { at: edge } = side.dataset;
    write(context, side.textContent, across[edge] ?? width / 2, down[edge] ?? height - 8 * ratio, ratio);
  }
}

// Everything over the film.
function drawMarks(context, spec, { width, height, at, kept, heat }, ratio) {
  if (view.outline && data.lungs) drawOutlines(context, at, ratio);
  if (view.outline && heat) drawHottest(context, spec, at, ratio, heat.confined ? kept : null);
  drawTools(context, at, ratio);
  drawScaleBar(context, at, width, height, ratio);
  if (data.planted) drawPlanted(context, at, ratio);
}

function drawOutlines(context, at, ratio) {
  context.save();
  context.setTransform(at.a, at.b, at.c, at.d, at.e, at.f);
  context.lineWidth = (1.5 * ratio) / at.scale;
  for (const [side, path] of outlinesOf(data.lungs)) {
    context.strokeStyle = `rgb(${data.sideColours[side].join(" ")})`;
    context.stroke(path);
  }
  context.restore();
}

// A line at half of the heat's own peak, within `kept` if it is given, and a ring on its hottest cell.
function drawHottest(context, spec, at, ratio, kept) {
  const heat = heatOf(spec.mode, spec.heat), { width, height } = data.image;
  const hottest = reading(spec.mode).findings[spec.heat].hottest;
  const under = (draw, colour, line) => {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.beginPath();
    draw();
    context.stroke();
  };
  const contour = () => contourAtHalf(heat).forEach(([x0, y0, x1, y1]) => {
    if (kept && !isKept(kept, [(x0 + x1) / 2, (y0 + y1) / 2])) return;
    context.moveTo(...toPane(at, [x0 * width, y0 * height]));
    context.lineTo(...toPane(at, [x1 * width, y1 * height]));
  });
  under(contour, "rgb(0 0 0 / .55)", 2.5);
  under(contour, "rgb(255 236 160)", 1);
  if (!hottest) return;
  const [x, y] = toPane(at, [hottest.x, hottest.y]);
  const radius = Math.max(6 * ratio, (0.35 * width * at.scale) / (heat.columns * heat.content[2]));
  const ring = () => context.arc(x, y, radius, 0, 2 * Math.PI);
  under(ring, "rgb(0 0 0 / .7)", 4);
  under(ring, "#fff", 1.5);
}
