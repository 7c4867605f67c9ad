// The viewer's state, what comes from the server, and drawing. The server sends pictures and
// numbers once per analysis (payload.py); everything a toggle, a slider, a wheel or a key changes is
// drawn here, within one frame and without a request. Gradio runs the joined sheets as the body of a
// function of `element`, `props`, `trigger` and `watch`. Only pixels and textContent ever come from
// a payload: no HTML.

const root = element.querySelector(".cxv");
const find = (selector) => root.querySelector(selector);
const all = (selector) => [...root.querySelectorAll(selector)];
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const MODES = ["none", "loose", "tight"];
const FADED = 0.5; // of the opacity, for a finding below its threshold or not shown to beat chance
const UPRIGHT = { zoom: 1, x: 0, y: 0, level: 0.5, width: 1, invert: false, preset: "file", turns: 0, mirrored: false };
const START = {
  ...UPRIGHT, mode: "none", layout: "pair", label: null, point: 0, margin: 0.08, scale: "own", fold: "good",
  outline: true, heat: true, opacity: 0.6, swapped: false, solo: null, keys: true, hold: false,
  tool: null, editWith: "brush", sign: "add", brush: 0.04, cross: null, crossShown: false, corner: null, box: null, stroke: null, length: null,
  kind: "nodule", diameter: 0.1, contrast: 0.45,
};
const KEPT = ["mode", "layout", "scale", "fold", "outline", "heat", "opacity", "keys", "brush", "theme"];

let view = { ...START, ...remembered() };
let data = null; // the merged payload
let picture = null; // {width, height, pyramid}: the X-ray as sent
let planted = null; // the same with a lesion planted
let levels = null; // {width, height, values}: from which margin on a pixel is kept
let panes = []; // {box, canvas, title, chips, spec}
let busy = false; // an answer from the server is under way, so numbers are stale
let asked = null; // what that answer will change: "all" or "loose"
let hasChosen = false; // the reader has chosen a finding, which then stays from image to image
const renderer = makeRenderer();

// What is looked at: the image, or the one with a planted lesion.
const shown = () => (data && data.planted && planted ? { ...data, ...data.planted } : data);

// ---- What comes from the server ------------------------------------------------------------------

// A payload adds to what is there, unless it belongs to another study, and then it is complete.
let turns = 0;
async function receive() {
  const sent = props.value;
  if (!sent || !sent.run) return;
  const turn = ++turns;
  if (sent.clear) {
    data = picture = planted = levels = null;
    questions.length = marks.length = 0;
    hasChosen = false;
    view = { ...START, ...remembered() };
    busy = false;
    return refresh();
  }
  if (sent.failed) {
    busy = false;
    questions.length = 0;
    marks.length = Math.min(marks.length, (data && data.corrections) || 0);
    if (data && data.stage) data.stage = sent.reason || "This image was not read to its end.";
    return refresh();
  }
  if (sent.case) takeAway(sent.case);
  const isNew = !data || sent.study !== data.study;
  if (isNew && !sent.image) return;
  const merged = isNew ? sent : { ...data, ...sent };
  const image = isNew || sent.image ? await pictureOf(merged.image) : picture;
  const changed = merged.planted ? await pictureOf(merged.planted.image) : null;
  const map = merged.lungs ? await levelsOf(merged.lungs.levels) : null;
  if (turn !== turns) return; // overtaken by a later one, which holds all of this
  if (isNew) {
    Object.assign(view, UPRIGHT, { corner: null, box: null, stroke: null, length: null, tool: null, solo: null, swapped: false });
    view.cross = [sent.image.width / 2, sent.image.height / 2];
    questions.length = marks.length = 0;
  }
  const isFirstReading = merged.maskings && (isNew || !data.maskings);
  data = merged;
  picture = image;
  planted = changed;
  levels = map;
  busy = Boolean(data.stage);
  if (!busy) marks.length = Math.min(marks.length, (data.corrections || 0) + questions.length);
  if (data.maskings?.loose && !questions.some(({ event }) => event === "margin_changed")) view.margin = data.maskings.loose.margin;
  if (isFirstReading && !hasChosen) view.label = firstLook();
  if (!busy) askNext();
  refresh();
}

// The finding with the strongest evidence: none where nothing is called.
function firstLook() {
  const read = reading();
  return read ? strongest(read.findings, view.point) : null;
}

async function pixelsOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

let lastPicture = { url: null, made: null };
async function pictureOf({ url, deep }) {
  if (lastPicture.url !== url) {
    const { data: rgba, width, height } = await pixelsOf(url);
    lastPicture = { url, made: { width, height, values: greyLevels(rgba, deep) } };
  }
  return lastPicture.made;
}

let lastLevels = { url: null, map: null };
async function levelsOf(url) {
  if (lastLevels.url !== url) {
    const { data: rgba, width, height } = await pixelsOf(url);
    lastLevels = { url, map: { width, height, values: Uint8Array.from({ length: width * height }, (_, i) => rgba[4 * i]) } };
  }
  return lastLevels.map;
}

// Questions to the server are answered one after the other; `changes` says which numbers the answer
// will replace. A later margin takes the place of one that still waits.
const questions = [];
function ask(event, detail = {}, changes = "all") {
  if (!data || (data.stage && !data.maskings && event !== "read_again")) return;
  const waiting = questions.findIndex((question) => question.event === event && event === "margin_changed");
  if (waiting >= 0) questions.splice(waiting, 1);
  questions.push({ event, detail, changes });
  if (!busy) askNext();
  refresh();
}

function askNext() {
  const next = questions.shift();
  if (!next) return;
  // Strokes that were painted meanwhile go together.
  while (next.event === "mask_painted" && questions[0]?.event === "mask_painted") next.detail.strokes.push(...questions.shift().detail.strokes);
  busy = true;
  asked = next.changes;
  trigger(next.event, { ...next.detail, study: data.study });
}

// ---- What is remembered in this browser: settings, never an image -------------------------------------

function remembered() {
  try {
    const kept = JSON.parse(localStorage.getItem("cxrdemo") || "{}");
    return Object.fromEntries(KEPT.filter((key) => key in kept).map((key) => [key, kept[key]]));
  } catch {
    return {}; // storage is off, or holds something else
  }
}

function remember() {
  const theme = document.body.classList.contains("dark") ? "dark" : "light";
  try {
    localStorage.setItem("cxrdemo", JSON.stringify(Object.fromEntries(KEPT.map((key) => [key, { ...view, theme }[key]]))));
  } catch {
    // Storage is off: nothing is remembered.
  }
}

// ---- The scene: what is drawn, in the pose it is looked at ----------------------------------------------

let lastScene = { key: null, made: null };
function scene() {
  const source = data.planted && planted ? planted : picture;
  const key = [source, levels, data.lungs, view.turns, view.mirrored];
  if (lastScene.key && key.every((part, i) => part === lastScene.key[i])) return lastScene.made;
  const before = lastScene.key;
  const pose = { turns: view.turns, mirrored: view.mirrored };
  const { width, height } = posedSize(source, pose);
  const samePicture = before && before[0] === key[0] && before[3] === key[3] && before[4] === key[4];
  const made = {
    width, height, pose, heats: new Map(),
    pyramid: samePicture ? lastScene.made.pyramid : pyramidOf(posedGrid(source.values, source, pose), width, height),
    levels: levels && { ...posedSize(levels, pose), values: posedGrid(levels.values, levels, pose) },
    outlines: Object.entries(data.lungs?.outlines ?? {}).map(([side, polygons]) => [side, posedPolygons(polygons, data.image, pose)]),
  };
  lastScene = { key, made };
  return made;
}

function heatOf(mode, label) {
  const { heats, pose } = scene();
  const heat = reading(mode)?.heat[label];
  if (!heat) return null;
  if (!heats.has(heat)) {
    const posed = posedHeat(heat, pose), peak = Math.max(...heat.cells);
    heats.set(heat, { ...posed, top: peak, contour: peak > 0 ? contourOf(posed, peak / 2) : [] });
  }
  return heats.get(heat);
}

// ---- Drawing ---------------------------------------------------------------------------------------

let waiting = null; // null: no frame is asked for; else whether it is the panes alone that changed
function refresh(panesAlone = false) {
  if (waiting === null) {
    requestAnimationFrame(() => {
      const alone = waiting;
      waiting = null;
      if (!alone) layOut();
      panes.forEach(draw);
      showControls();
      if (alone) return;
      showFindings();
      say();
      remember();
    });
  }
  waiting = waiting === null ? panesAlone : waiting && panesAlone;
}

const isNarrow = () => window.matchMedia("(max-width: 900px)").matches;

function wanted() {
  const value = (mode, i) => (reading(mode) ? `${data.labels[i].name} ${reading(mode).findings[i].p.toFixed(2)}` : "");
  const method = reading()?.method ?? "Heat";
  const name = NAMES[view.mode];
  const label = view.label;
  const about = label === null || !reading() ? "" : ` · ${value(view.mode, label)}`;
  const difference = (mode) => {
    if (mode === "none" || label === null || !reading(mode) || !reading("none")) return "";
    const by = reading(mode).findings[label].p - reading("none").findings[label].p;
    return ` (${by < 0 ? "−" : "+"}${Math.abs(by).toFixed(2)})`;
  };
  if (view.layout === "compare") {
    return MODES.map((mode) => ({
      mode, masked: true, heat: label, chips: true,
      title: `${NAMES[mode]}${label === null || !reading(mode) ? "" : ` · ${value(mode, label)}${difference(mode)}`}`,
    }));
  }
  if (view.layout === "grid" && data && data.labels) {
    const plain = { mode: view.mode, masked: true, heat: null, title: `given to the network: ${name}` };
    return [plain, ...data.labels.map((_, i) => ({ mode: view.mode, masked: false, heat: i, title: reading() ? value(view.mode, i) : data.labels[i].name }))];
  }
  if (isNarrow()) return [{ mode: view.mode, masked: true, heat: label, chips: true, title: `${name}${about}` }];
  return [
    { mode: view.mode, masked: true, heat: null, title: `Given to the network: ${name}` },
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
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    const title = make("span", "cxv-title"), chips = make("span", "cxv-chips");
    const right = make("span", "cxv-r", "R"), left = make("span", "cxv-l", "L");
    box.append(canvas, title, chips, right, left);
    holder.append(box);
    const pane = { box, canvas, title, chips, right, left, spec: null };
    panes.push(pane);
    listen(pane);
  }
  holder.dataset.panes = view.solo === null ? specs.length : 1;
  const edges = sideEdges(view, view.swapped);
  const isAssumed = data && data.sides === "assumed";
  panes.forEach((pane, i) => {
    pane.spec = specs[i];
    pane.box.hidden = view.solo !== null && view.solo !== i;
    pane.title.textContent = data ? `${data.planted ? "SYNTHETIC lesion · " : ""}${specs[i].title}` : "";
    pane.right.dataset.at = edges.right;
    pane.left.dataset.at = edges.left;
    pane.right.textContent = isAssumed && !view.swapped ? "R?" : "R";
    pane.left.textContent = isAssumed && !view.swapped ? "L?" : "L";
    showChips(pane);
    pane.canvas.setAttribute("aria-label", data ? `X-ray: ${specs[i].title}${hasHeat(specs[i]) ? ", with heat" : ""}` : "No image yet");
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

const place = (width, height) => placed(scene(), { width, height }, view);

function draw(pane) {
  if (pane.box.hidden) return;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(pane.canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(pane.canvas.clientHeight * ratio));
  if (pane.canvas.width !== width || pane.canvas.height !== height) {
    pane.canvas.width = width;
    pane.canvas.height = height;
  }
  const context = pane.canvas.getContext("2d", { alpha: false });
  if (!picture) {
    context.clearRect(0, 0, width, height);
    return;
  }
  paint(context, pane.spec, width, height, place(width, height), ratio);
}

// Everything of a pane but its words.
function paint(context, spec, width, height, at, ratio) {
  const parts = ingredients(spec, width, height, at);
  if (renderer && renderer.takes(parts.picture)) {
    const card = renderer.draw(parts);
    context.drawImage(card, 0, card.height - height, width, height, 0, 0, width, height);
  } else {
    const source = greyOf(parts.pyramid, width, height, at);
    context.putImageData(new ImageData(compose({ ...parts, source }), width, height), 0, 0);
  }
  if (view.outline) drawOutline(context, at, ratio);
  if (view.outline && parts.heat) drawHottest(context, spec, at, ratio);
  drawTools(context, at, ratio);
  drawScaleBar(context, at, width, height, ratio);
  if (data.planted) drawPlanted(context, at, ratio);
}

// What is to be drawn for one pane, for `compose` or the renderer.
function ingredients(spec, width, height, at) {
  const made = scene();
  const read = reading(spec.mode);
  const hasMask = spec.masked && spec.mode !== "none" && made.levels;
  const heat = hasHeat(spec) && read ? heatOf(spec.mode, spec.heat) : null;
  const peak = heat && (view.scale === "own" ? heat.top : shown().peak);
  return {
    pyramid: made.pyramid, width, height, at, picture: made,
    window: { level: view.level, width: view.width, invert: view.invert },
    mask: hasMask ? { ...made.levels, limit: spec.mode === "tight" ? 0.5 : marginLevel() + 0.5, fill: read ? read.fill : 0 } : null,
    heat: heat && peak > 0 ? { ...heat, peak, opacity: view.opacity * (called(spec.mode, spec.heat) ? 1 : FADED), colours: data.colours } : null,
  };
}

// The grey levels as last resampled: a toggle, a slider or another pane needs the same.
let lastGrey = { key: null, values: null };
function greyOf(pyramid, width, height, at) {
  const key = [pyramid, width, height, at.scale, at.ox, at.oy];
  if (!lastGrey.key || key.some((part, i) => part !== lastGrey.key[i])) {
    lastGrey = { key, values: resampled(pyramid, width, height, at, pyramid[0]) };
  }
  return lastGrey.values;
}

function marginLevel() {
  return data.lungs ? Math.round(view.margin / data.lungs.step) : 0;
}

function drawOutline(context, at, ratio) {
  context.save();
  context.setTransform(at.scale, 0, 0, at.scale, at.ox, at.oy);
  context.lineWidth = (1.5 * ratio) / at.scale;
  for (const [side, polygons] of scene().outlines) {
    context.strokeStyle = `rgb(${data.sideColours[side].join(" ")})`;
    for (const points of polygons) {
      context.beginPath();
      for (let i = 0; i < points.length; i += 2) context.lineTo(points[i] + 0.5, points[i + 1] + 0.5);
      context.closePath();
      context.stroke();
    }
  }
  context.restore();
}

// A line at half of the heat's own peak, and a ring on its hottest cell.
function drawHottest(context, spec, at, ratio) {
  const heat = heatOf(spec.mode, spec.heat), { width, height, pose } = scene();
  const hottest = reading(spec.mode).findings[spec.heat].hottest;
  const under = (draw, colour, line) => {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.beginPath();
    draw();
    context.stroke();
  };
  const contour = () => heat.contour.forEach(([x0, y0, x1, y1]) => {
    context.moveTo(x0 * width * at.scale + at.ox, y0 * height * at.scale + at.oy);
    context.lineTo(x1 * width * at.scale + at.ox, y1 * height * at.scale + at.oy);
  });
  under(contour, "rgb(0 0 0 / .55)", 2.5);
  under(contour, "rgb(255 236 160)", 1);
  if (!hottest) return;
  const [x, y] = posedPoint([hottest.x, hottest.y], data.image, pose);
  const radius = Math.max(6 * ratio, (0.35 * width * at.scale) / (heat.columns * heat.content[2]));
  const ring = () => context.arc(x * at.scale + at.ox, y * at.scale + at.oy, radius, 0, 2 * Math.PI);
  under(ring, "rgb(0 0 0 / .7)", 4);
  under(ring, "#fff", 1.5);
}

// ---- The bar and the legend ----------------------------------------------------------------------------

function showControls() {
  Object.assign(root.dataset, { mode: view.mode, layout: view.layout });
  root.toggleAttribute("data-empty", !data);
  root.toggleAttribute("data-busy", busy);
  root.toggleAttribute("data-probed", Boolean(data && data.probes));
  root.toggleAttribute("data-zoomed", view.zoom > 1);
  root.toggleAttribute("data-tooled", view.tool !== null);
  root.dataset.renderer = renderer && data && renderer.takes(scene()) ? "webgl" : "2d";
  for (const key of ["mode", "layout", "sign", "kind", "scale"]) chooseAmong(all(`button[data-${key}]`), key, view[key]);
  chooseAmong(all("button[data-tool]"), "tool", view.editWith);
  all("[data-toggle]").forEach((b) => b.setAttribute("aria-pressed", Boolean(view[b.dataset.toggle])));
  if (data && data.lungs) {
    const percent = 100 * data.lungs.step;
    Object.assign(find("[data-slide=margin]"), { min: percent, max: percent * data.lungs.count, step: percent });
  }
  for (const slide of all("[data-slide]")) {
    if (document.activeElement !== slide || !slide.matches(":active")) slide.value = Math.round(100 * view[slide.dataset.slide]);
  }
  const spacing = data && data.image.spacing;
  const lungsHeight = data && data.lungs ? heightOf(Object.values(data.lungs.outlines).flat()) : 0;
  const mm = (share) => (spacing && lungsHeight ? ` · ${Math.round(share * lungsHeight * spacing)} mm` : "");
  find("[data-out=margin]").textContent = `${Math.round(view.margin * 100)} %${mm(view.margin)}`;
  find("[data-out=diameter]").textContent = `${Math.round(view.diameter * 100)} %${mm(view.diameter)}`;
  find("[data-preset]").value = view.preset;
  const tool = toolBar();
  find(".cxv-main").hidden = tool !== null;
  find(".cxv-fix").hidden = tool !== "edit";
  find(".cxv-planting").hidden = tool !== "plant";
  find(".cxv-fix .cxv-tip").textContent = busy ? "Reading anew…" : editTip();
  find(".cxv-planting .cxv-tip").textContent = busy ? "Reading anew…" : data && data.planted ? "Click elsewhere to move it." : "Click into a lung.";
  showLegend();
}

function chooseAmong(buttons, key, chosen) {
  for (const button of buttons) {
    const isChosen = button.dataset[key] === chosen;
    button.setAttribute("aria-checked", isChosen);
    button.tabIndex = isChosen ? 0 : -1;
  }
}

let hasBar = false;
function showLegend() {
  if (data && !hasBar) {
    const strip = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) strip.data.set([...data.colours.slice(3 * i, 3 * i + 3), 255], 4 * i);
    find(".cxv-scale canvas").getContext("2d").putImageData(strip, 0, 0);
    hasBar = true;
  }
  const read = reading();
  find("[data-out=scale]").textContent = read ? `${read.method}, ${read.heat[0].columns} × ${read.heat[0].rows} cells; line: half of the peak` : "";
}

// ---- Taking away -----------------------------------------------------------------------------------------

// The panes as they are seen, at the picture's own size, with what tells how they came about.
function save() {
  const { width, height } = scene();
  const visible = panes.filter((pane) => !pane.box.hidden);
  const columns = Math.min(3, visible.length), rows = Math.ceil(visible.length / columns);
  const strip = Math.max(18, Math.round(height / 32));
  const canvas = make("canvas");
  canvas.width = columns * width;
  canvas.height = rows * (height + strip) + strip;
  const context = canvas.getContext("2d", { alpha: false });
  const pane = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
  context.font = `${Math.round(strip * 0.6)}px system-ui, sans-serif`;
  visible.forEach(({ spec }, i) => {
    const x = (i % columns) * width, y = Math.floor(i / columns) * (height + strip);
    paint(pane, spec, width, height, { scale: 1, ox: 0, oy: 0 }, Math.max(1, width / 700));
    context.drawImage(pane.canvas, x, y);
    context.fillStyle = "#fff";
    context.fillText(spec.title, x + 6, y + height + strip * 0.7, width - 12);
  });
  const finding = view.label === null ? null : reading()?.findings[view.label];
  const point = finding && pointAt(finding, view.point);
  const words = [
    data.synthetic || data.planted ? "SYNTHETIC" : "", data.name ?? "",
    finding && point && finding.proven ? `threshold ${point.threshold.toFixed(2)} (${point.name})` : "",
    view.mode === "loose" || view.layout === "compare" ? `margin ${Math.round(100 * view.margin)} %` : "",
    view.heat ? `heat on ${view.scale === "own" ? "its own" : "one shared"} scale` : "",
    `window ${windowText()}`, "research use only, not a medical device",
  ];
  context.fillText(words.filter(Boolean).join(" · "), 6, canvas.height - strip * 0.3, canvas.width - 12);
  canvas.toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    const parts = [stem(), view.layout === "compare" ? "maskings" : view.mode, view.layout === "grid" || view.label === null ? "" : data.labels[view.label].name];
    takeAway({ url, name: `${parts.filter(Boolean).join("-").toLowerCase()}.png` });
    URL.revokeObjectURL(url);
  });
}

const stem = () => (data.name ?? "chest-x-ray").replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-");

function takeAway({ url, name }) {
  const link = make("a");
  link.href = url;
  link.download = name;
  link.click();
}

takeHands();
new ResizeObserver(() => refresh()).observe(find(".cxv-panes"));
watch("value", receive);
receive();
refresh();
