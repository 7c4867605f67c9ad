// The canvas of the viewer. The server sends pictures and numbers once per analysis (payload.py);
// everything a toggle, a slider, a wheel or a key changes is drawn here, within one frame and
// without a request. Gradio runs this file as the body of a function of `element`, `props`,
// `trigger` and `watch`. Only an X-ray's pixels and textContent ever come from a payload: no HTML.

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
const FADED = 0.4; // of the opacity, for a finding below its threshold or not shown to beat chance
const START = {
  mode: "none", layout: "pair", label: 0, point: 0, margin: 0.08,
  outline: true, heat: true, opacity: 0.5, level: 0.5, width: 1, invert: false,
  zoom: 1, x: 0, y: 0, fix: false, tool: "add", cross: null, crossShown: false, corner: null, box: null,
};
const VIEW = ["zoom", "x", "y", "level", "width", "invert", "opacity", "outline", "heat"];

let view = { ...START };
let data = null; // the merged payload
let picture = null; // the X-ray, decoded
let levels = null; // {width, height, values}: from which margin on a pixel is kept
let panes = []; // {box, canvas, title, spec}
let active = 0; // the pane last pointed at
let grey = null; // the X-ray's grey levels as last resampled, with the key they are for
let busy = false; // an answer from the server is under way, so numbers are stale
let asked = null; // what that answer will change: "all" or "loose"
let hasChosen = false; // the reader has chosen a finding, which then stays from image to image

// ---- What comes from the server ----------------------------------------------------------------

// A payload adds to what is there, unless it belongs to another study, and then it is complete.
let turns = 0;
async function receive() {
  const sent = props.value;
  if (!sent || !sent.run) return;
  const turn = ++turns;
  if (sent.clear) {
    data = picture = levels = null;
    view = { ...START, mode: view.mode, layout: view.layout };
    busy = false;
    return refresh();
  }
  if (sent.failed) {
    busy = false;
    if (data && data.stage) data.stage = "This image was not read to its end.";
    return refresh();
  }
  const isNew = !data || sent.study !== data.study;
  if (isNew && !sent.image) return;
  const merged = isNew ? sent : { ...data, ...sent };
  const image = isNew ? await load(sent.image.url) : picture;
  const map = merged.lungs ? await readLevels(merged.lungs.levels) : null;
  if (turn !== turns) return; // overtaken by a later one, which holds all of this
  if (isNew) {
    Object.assign(view, { zoom: 1, x: 0, y: 0, level: 0.5, width: 1, invert: false, corner: null, box: null, fix: false });
    view.cross = [sent.image.width / 2, sent.image.height / 2];
    grey = null;
  }
  const isFirstReading = merged.maskings && (isNew || !data.maskings);
  data = merged;
  picture = image;
  levels = map;
  busy = Boolean(data.stage);
  const loose = data.maskings && data.maskings.loose;
  if (loose) view.margin = loose.margin;
  if (isFirstReading && !hasChosen) view.label = Math.max(0, data.labels.findIndex((_, i) => called(view.mode, i)));
  refresh();
  if (data.maskings && !data.probes) announce();
}

async function load(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

let lastLevels = { url: null, map: null };
async function readLevels(url) {
  if (lastLevels.url === url) return lastLevels.map;
  const image = await load(url);
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i];
  lastLevels = { url, map: { width: canvas.width, height: canvas.height, values } };
  return lastLevels.map;
}

// `changes` says which numbers the answer will replace.
function ask(event, detail, changes = "all") {
  if (busy || !data || data.stage) return;
  busy = true;
  asked = changes;
  trigger(event, { ...detail, study: data.study });
  refresh();
}

// ---- Drawing -----------------------------------------------------------------------------------

let waiting = false;
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    layOut();
    panes.forEach(draw);
    showControls();
    showFindings();
  });
}

function wanted() {
  const reading = (mode) => data && data.maskings && data.maskings[mode];
  const value = (mode, i) => (reading(mode) ? ` · ${data.labels[i].name} ${reading(mode).findings[i].p.toFixed(2)}` : "");
  const method = (reading(view.mode) || { method: "No heat" }).method;
  const difference = (mode) => {
    if (mode === "none" || !reading(mode) || !reading("none")) return "";
    const by = reading(mode).findings[view.label].p - reading("none").findings[view.label].p;
    return ` (${by < 0 ? "−" : "+"}${Math.abs(by).toFixed(2)})`;
  };
  if (view.layout === "compare") {
    return MODES.map((mode) => ({
      mode, masked: true, heat: view.label, title: `${mode}${value(mode, view.label)}${difference(mode)}`,
    }));
  }
  if (view.layout === "grid" && data && data.labels) {
    const plain = { mode: view.mode, masked: true, heat: null, title: `masking ${view.mode}` };
    return [plain, ...data.labels.map((_, i) => ({ mode: view.mode, masked: false, heat: i, title: `${method}${value(view.mode, i)}` }))];
  }
  return [
    { mode: view.mode, masked: true, heat: null, title: `Lung mask · masking ${view.mode}` },
    { mode: view.mode, masked: false, heat: view.label,
      title: `${method}${value(view.mode, view.label)} · masking ${view.mode}` },
  ];
}

function layOut() {
  const specs = wanted();
  const holder = find(".cxv-panes");
  while (panes.length > specs.length) panes.pop().box.remove();
  while (panes.length < specs.length) {
    const box = make("div", "cxv-pane");
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    const title = make("span", "cxv-title");
    box.append(canvas, title, make("span", "cxv-r", "R"), make("span", "cxv-l", "L"));
    holder.append(box);
    const pane = { box, canvas, title, spec: null };
    panes.push(pane);
    listen(pane);
  }
  holder.dataset.panes = specs.length;
  panes.forEach((pane, i) => {
    pane.spec = specs[i];
    pane.title.textContent = picture ? specs[i].title : "";
    const heat = view.heat && specs[i].heat !== null ? ", with heat" : "";
    pane.canvas.setAttribute("aria-label", picture ? `X-ray: ${specs[i].title}${heat}` : "No image yet");
  });
}

const place = (width, height) => placed(data.image, { width, height }, view);

function draw(pane) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(pane.canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(pane.canvas.clientHeight * ratio));
  if (pane.canvas.width !== width || pane.canvas.height !== height) {
    pane.canvas.width = width;
    pane.canvas.height = height;
  }
  const context = pane.canvas.getContext("2d");
  if (!picture) {
    context.clearRect(0, 0, width, height);
    return;
  }
  const at = place(width, height);
  paintPixels(context, pane.spec, width, height, at);
  if (view.outline) outline(context, at, ratio);
  if (view.fix) markTool(context, at, ratio);
}

function greyLevels(width, height, at) {
  const key = [data.study, width, height, at.scale, at.ox, at.oy].join();
  if (grey && grey.key === key) return grey.values;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, at.ox, at.oy, data.image.width * at.scale, data.image.height * at.scale);
  grey = { key, values: context.getImageData(0, 0, width, height).data };
  return grey.values;
}

// What `compose` is to draw for one pane.
function ingredients(spec, width, height, at) {
  const reading = data.maskings && data.maskings[spec.mode];
  const mask = spec.masked && spec.mode !== "none" && levels;
  const heat = view.heat && spec.heat !== null && reading && data.peak > 0 && reading.heat[spec.heat];
  return {
    source: greyLevels(width, height, at), width, height, at, picture: data.image, table: greyTable(view),
    mask: mask ? { ...mask, limit: spec.mode === "tight" ? 0.5 : marginLevel() + 0.5 } : null,
    heat: heat
      ? { ...heat, peak: data.peak, opacity: view.opacity * (called(spec.mode, spec.heat) ? 1 : FADED), colours: data.colours }
      : null,
  };
}

function paintPixels(context, spec, width, height, at) {
  context.putImageData(new ImageData(compose(ingredients(spec, width, height, at)), width, height), 0, 0);
}

function marginLevel() {
  return data.lungs ? Math.round(view.margin / data.lungs.step) : 0;
}

function outline(context, at, ratio) {
  if (!data.lungs) return;
  context.save();
  context.setTransform(at.scale, 0, 0, at.scale, at.ox, at.oy);
  context.lineWidth = (1.5 * ratio) / at.scale;
  for (const [side, polygons] of Object.entries(data.lungs.outlines)) {
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

function markTool(context, at, ratio) {
  context.strokeStyle = "#fff";
  context.lineWidth = ratio;
  if (view.box) {
    const [x0, y0, x1, y1] = view.box;
    context.setLineDash([6 * ratio, 4 * ratio]);
    context.strokeRect(x0 * at.scale + at.ox, y0 * at.scale + at.oy, (x1 - x0) * at.scale, (y1 - y0) * at.scale);
    context.setLineDash([]);
  }
  if (view.cross && view.crossShown) {
    const x = view.cross[0] * at.scale + at.ox, y = view.cross[1] * at.scale + at.oy, arm = 9 * ratio;
    context.beginPath();
    context.moveTo(x - arm, y); context.lineTo(x + arm, y);
    context.moveTo(x, y - arm); context.lineTo(x, y + arm);
    context.stroke();
  }
}

function save() {
  const spec = panes[Math.min(active, panes.length - 1)].spec;
  const { width, height } = data.image;
  const strip = Math.max(18, Math.round(height / 40));
  const canvas = make("canvas");
  canvas.width = width;
  canvas.height = height + strip;
  const context = canvas.getContext("2d");
  const at = { scale: 1, ox: 0, oy: 0 };
  paintPixels(context, spec, width, height, at);
  if (view.outline) outline(context, at, Math.max(1, width / 700));
  context.fillStyle = "#000";
  context.fillRect(0, height, width, strip);
  context.fillStyle = "#fff";
  context.font = `${Math.round(strip * 0.6)}px system-ui, sans-serif`;
  const synthetic = data.synthetic ? "SYNTHETIC · " : "";
  context.fillText(`${synthetic}${spec.title} · research use only, not a medical device`, 6, height + strip * 0.7, width - 12);
  grey = null;
  canvas.toBlob((blob) => {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = `chest-x-ray-${spec.mode}.png`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

// ---- The bar ----------------------------------------------------------------------------------

function showControls() {
  root.dataset.mode = view.mode;
  root.dataset.layout = view.layout;
  root.toggleAttribute("data-empty", !data);
  root.toggleAttribute("data-busy", busy);
  root.toggleAttribute("data-zoomed", view.zoom > 1);
  for (const key of ["mode", "layout", "tool"]) {
    all(`button[data-${key}]`).forEach((b) => b.setAttribute("aria-checked", b.dataset[key] === view[key]));
  }
  all("[data-toggle]").forEach((b) => b.setAttribute("aria-pressed", Boolean(view[b.dataset.toggle])));
  if (data && data.lungs) {
    const percent = 100 * data.lungs.step;
    Object.assign(find("[data-slide=margin]"), { min: percent, max: percent * data.lungs.count, step: percent });
  }
  const slides = { margin: view.margin * 100, opacity: view.opacity * 100, level: view.level * 100, width: view.width * 100 };
  all("[data-slide]").forEach((s) => { if (document.activeElement !== s || !s.matches(":active")) s.value = Math.round(slides[s.dataset.slide]); });
  const spacing = data && data.image.spacing;
  const mm = spacing && data.lungs ? ` · ${Math.round(view.margin * heightOf(Object.values(data.lungs.outlines).flat()) * spacing)} mm` : "";
  find("[data-out=margin]").textContent = `${Math.round(view.margin * 100)} %${mm}`;
  find(".cxv-fix").hidden = !view.fix;
  find(".cxv-tip").textContent = busy ? "Finding the lungs anew…" : "Findings are read again after each change.";
  const bar = find(".cxv-scale canvas").getContext("2d");
  if (data) {
    const strip = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) strip.data.set([...data.colours.slice(3 * i, 3 * i + 3), 255], 4 * i);
    bar.putImageData(strip, 0, 0);
  }
  const reading = data && data.maskings && data.maskings[view.mode];
  find("[data-out=scale]").textContent = reading
    ? `${reading.method}, ${reading.heat[0].rows} × ${reading.heat[0].columns} cells, one scale for all labels and maskings; fainter below the threshold or without a verdict`
    : "";
}

takeHands();
new ResizeObserver(refresh).observe(find(".cxv-panes"));
watch("value", receive);
receive();
refresh();
