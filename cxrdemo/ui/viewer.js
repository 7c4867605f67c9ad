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

function place(width, height) {
  // Where the picture lies in a pane: pane = picture * scale + (ox, oy).
  const { width: w, height: h } = data.image;
  const scale = Math.min(width / w, height / h) * view.zoom;
  return { scale, ox: width / 2 - (w / 2 + view.x) * scale, oy: height / 2 - (h / 2 + view.y) * scale };
}

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
  context.putImageData(compose(pane.spec, width, height, at), 0, 0);
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

// One pane's pixels. The X-ray's own brightness depends on level and width alone; heat is laid over
// it, and is not cut off at the mask: that would hide exactly what a reader should see.
function compose(spec, width, height, at) {
  const source = greyLevels(width, height, at);
  const out = new ImageData(width, height);
  const pixels = out.data;
  const table = new Uint8ClampedArray(256);
  for (let v = 0; v < 256; v++) {
    const share = Math.min(1, Math.max(0, (v / 255 - view.level + view.width / 2) / view.width));
    table[v] = Math.round(255 * (view.invert ? 1 - share : share));
  }
  const mask = spec.masked && spec.mode !== "none" ? levels : null;
  const limit = spec.mode === "tight" ? 0.5 : marginLevel() + 0.5;
  const reading = data.maskings && data.maskings[spec.mode];
  const heat = view.heat && spec.heat !== null && reading && data.peak > 0 ? reading.heat[spec.heat] : null;
  const opacity = heat ? view.opacity * (called(spec.mode, spec.heat) ? 1 : FADED) : 0;
  const { width: w, height: h } = data.image;
  const across = (n, offset, size, count, from, share) => axis(n, at.scale, offset, size, count, from, share);
  const mx = mask && across(width, at.ox, w, mask.width, 0, 1);
  const my = mask && across(height, at.oy, h, mask.height, 0, 1);
  const hx = heat && across(width, at.ox, w, heat.columns, heat.content[0], heat.content[2]);
  const hy = heat && across(height, at.oy, h, heat.rows, heat.content[1], heat.content[3]);
  for (let y = 0; y < height; y++) {
    const v = (y + 0.5 - at.oy) / at.scale;
    for (let x = 0; x < width; x++) {
      const i = 4 * (y * width + x);
      pixels[i + 3] = 255;
      const u = (x + 0.5 - at.ox) / at.scale;
      if (u < 0 || v < 0 || u > w || v > h) continue;
      let g = table[source[i]];
      if (mask && sample(mask.values, mask.width, mx, my, x, y) > limit) g = 0;
      if (!heat) {
        pixels[i] = pixels[i + 1] = pixels[i + 2] = g;
        continue;
      }
      const value = Math.min(1, sample(heat.cells, heat.columns, hx, hy, x, y) / data.peak);
      const low = Math.min(254, Math.floor(255 * value)), part = 255 * value - low;
      const alpha = opacity * value;
      for (let c = 0; c < 3; c++) {
        const below = data.colours[3 * low + c], over = data.colours[3 * low + 3 + c];
        pixels[i + c] = Math.round(g + alpha * (below + part * (over - below) - g));
      }
    }
  }
  return out;
}

// For every pixel along one axis: its two neighbours on a coarser grid, and how far between.
function axis(length, scale, offset, size, count, from, share) {
  const low = new Int32Array(length), high = new Int32Array(length), part = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = (from + ((i + 0.5 - offset) / scale / size) * share) * count - 0.5;
    const clamped = Math.min(count - 1, Math.max(0, at));
    low[i] = Math.floor(clamped);
    high[i] = Math.min(count - 1, low[i] + 1);
    part[i] = clamped - low[i];
  }
  return { low, high, part };
}

function sample(values, columns, ax, ay, x, y) {
  const top = columns * ay.low[y], bottom = columns * ay.high[y], fx = ax.part[x];
  const upper = values[top + ax.low[x]] * (1 - fx) + values[top + ax.high[x]] * fx;
  const lower = values[bottom + ax.low[x]] * (1 - fx) + values[bottom + ax.high[x]] * fx;
  return upper * (1 - ay.part[y]) + lower * ay.part[y];
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
  context.putImageData(compose(spec, width, height, at), 0, 0);
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

// ---- The bar and the findings ------------------------------------------------------------------

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
  const slides = { margin: view.margin * 100, opacity: view.opacity * 100, level: view.level * 100, width: view.width * 100 };
  all("[data-slide]").forEach((s) => { if (document.activeElement !== s || !s.matches(":active")) s.value = Math.round(slides[s.dataset.slide]); });
  const spacing = data && data.image.spacing;
  const mm = spacing && data.lungs ? ` · ${Math.round(view.margin * lungsHeight() * spacing)} mm` : "";
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

function lungsHeight() {
  const ys = Object.values(data.lungs.outlines).flat(1).flat().filter((_, i) => i % 2);
  return Math.max(...ys) - Math.min(...ys) + 1;
}

function pointOf(finding) {
  return finding.points[Math.min(view.point, finding.points.length - 1)];
}

// Whether a finding is called: at or above its threshold, by weights shown to know it.
function called(mode, index) {
  const finding = data.maskings[mode].findings[index];
  return finding.proven && finding.p >= pointOf(finding).threshold;
}

function verdict(finding) {
  if (!finding.proven) return "no verdict";
  const point = pointOf(finding);
  return `${finding.p >= point.threshold ? "above" : "below"} ${point.threshold.toFixed(2)}`;
}

function showFindings() {
  const reading = data && data.maskings && data.maskings[view.mode];
  const rows = find(".cxv-rows");
  find("[data-out=mode]").textContent = reading ? `masking ${view.mode}` : "";
  showDoubts();
  const none = find(".cxv-none");
  none.hidden = Boolean(reading);
  none.textContent = whyNothing();
  rows.hidden = find(".cxv-detail").hidden = !reading;
  showPoints(reading);
  showCurve(reading);
  showLooks(reading);
  if (!reading) return;
  if (rows.childElementCount !== data.labels.length + 1) buildRows(rows);
  const compared = (line, value) => MODES.forEach((mode, i) => {
    const other = data.maskings[mode];
    line.children[i].textContent = other ? `${mode} ${value(other).toFixed(2)}` : "";
    line.children[i].toggleAttribute("data-chosen", mode === view.mode);
  });
  const isStale = busy && (asked === "all" || view.mode === "loose");
  reading.findings.forEach((finding, i) => {
    const row = rows.children[i];
    const word = finding.proven ? verdict(finding).split(" ")[0] : "unproven";
    row.dataset.word = word;
    row.setAttribute("aria-checked", i === view.label);
    row.querySelector("em").textContent = isStale ? "updating…" : verdict(finding);
    row.querySelector("b").textContent = finding.p.toFixed(2);
    row.querySelector("i").style.width = `${100 * finding.p}%`;
    const tick = row.querySelector("u");
    tick.hidden = !finding.proven;
    if (finding.points.length) tick.style.left = `${100 * pointOf(finding).threshold}%`;
    compared(row.querySelector(".cxv-compared"), (other) => other.findings[i].p);
  });
  const last = rows.lastElementChild;
  last.querySelector("b").textContent = reading.noFinding.toFixed(2);
  compared(last.querySelector(".cxv-compared"), (other) => other.noFinding);
  rows.toggleAttribute("data-stale", isStale);
  showDetail(reading.findings[view.label]);
}

function buildRows(rows) {
  rows.replaceChildren();
  const compared = () => {
    const line = make("span", "cxv-compared");
    line.append(...MODES.map(() => make("span")));
    return line;
  };
  data.labels.forEach((label, i) => {
    const row = make("button", "cxv-row");
    row.type = "button";
    row.setAttribute("role", "radio");
    const line = make("span", "cxv-line");
    line.append(make("span", "", label.name), make("em"), make("b"));
    const bar = make("span", "cxv-track");
    bar.append(make("i"), make("u"));
    row.append(line, bar, compared());
    row.addEventListener("click", () => choose(i));
    rows.append(row);
  });
  const last = make("div", "cxv-row cxv-derived");
  const line = make("span", "cxv-line");
  line.append(make("span", "", "No Finding"), make("em", "", "1 − the highest"), make("b"));
  last.append(line, compared());
  rows.append(last);
}

function showDetail(finding) {
  const label = data.labels[view.label];
  const lines = [`${label.name}. ${label.meaning}`];
  if (finding.auroc) lines.push(`On test patients: AUROC ${finding.auroc}.`);
  if (!finding.proven) lines.push("These weights were not shown to beat chance for it: no verdict.");
  if (finding.points.length && finding.proven) {
    const point = pointOf(finding);
    if (point.sensitivity) lines.push(`At ${point.threshold.toFixed(2)} (${point.name}): sensitivity ${point.sensitivity}, specificity ${point.specificity}.`);
  }
  find(".cxv-detail").replaceChildren(...lines.map((text) => make("p", "cxv-note", text)));
}

function showPoints(reading) {
  const select = find("[data-point]");
  const names = reading ? reading.findings[0].points.map((point) => point.name) : [];
  select.hidden = names.length < 2;
  if ([...select.options].map((o) => o.value).join() !== names.join()) {
    select.replaceChildren(...names.map((name) => new Option(name)));
  }
  if (names.length) select.selectedIndex = Math.min(view.point, names.length - 1);
}

function whyNothing() {
  if (!data) return "No image yet.";
  if (data.stage) return data.stage;
  if (data.withheld) return "No number is shown for this image.";
  return `No finding is shown for masking ${view.mode}. ${view.mode !== "none" && !data.lungs ? "There is no lung mask." : "There is no classifier for it."}`;
}

function showDoubts() {
  const box = find(".cxv-doubts");
  const doubts = (data && data.doubts) || [];
  box.hidden = !doubts.length;
  if (!doubts.length) return box.replaceChildren();
  const head = data.withheld ? "This image may not be what the models can read" : "Shown in spite of a doubt";
  const list = make("ul");
  list.append(...doubts.map((text) => make("li", "", text)));
  box.replaceChildren(make("strong", "", head), list);
  if (data.withheld && !data.stage) {
    const button = make("button", "cxv-accept", "Show the numbers anyway ");
    button.type = "button";
    button.append(make("kbd", "", "Y"));
    button.addEventListener("click", actions.accept);
    box.append(button);
  }
}

function showLooks(reading) {
  const lines = [];
  if (reading && data.lungs) {
    const share = reading.findings[view.label].inLung;
    const name = data.labels[view.label].name;
    lines.push(share === null ? `There is no heat for ${name}.` : `${Math.round(100 * share)} % of the heat for ${name} lies in the lungs.`);
    const probes = data.probes;
    if (probes && probes.outside && data.maskings.none) {
      lines.push(`Outside-lung probe, not a finding: with the lungs blacked out, masking none gives ${probes.outside[view.label].toFixed(2)} (whole image ${data.maskings.none.findings[view.label].p.toFixed(2)}). That part does not come from the lungs.`);
    }
  }
  find(".cxv-looks").textContent = lines.join(" ");
}

function showCurve(reading) {
  const svg = find(".cxv-curve");
  const probes = data && data.probes;
  const hasCurve = Boolean(reading && probes && probes.margins.length > 1 && data.maskings.loose);
  svg.toggleAttribute("hidden", !hasCurve);
  if (!hasCurve) return;
  const finding = data.maskings.loose.findings[view.label];
  const values = probes.curves.map((all) => all[view.label]);
  const threshold = finding.proven ? pointOf(finding).threshold : null;
  const top = Math.min(1, 1.25 * Math.max(...values, threshold || 0, 0.04));
  const x = (margin) => 34 + (216 * (margin - probes.margins[0])) / (probes.margins.at(-1) - probes.margins[0]);
  const y = (p) => 72 - (54 * p) / top;
  const draw = (tag, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const percent = (value) => `${Math.round(100 * value)} %`;
  const parts = [
    draw("text", { x: 34, y: 10 }, `${data.labels[view.label].name} over the loose margin`),
    draw("line", { x1: 34, x2: 250, y1: 72, y2: 72, class: "axis" }),
    draw("text", { x: 30, y: 75, "text-anchor": "end" }, "0"),
    draw("text", { x: 30, y: 23, "text-anchor": "end" }, top.toFixed(2)),
    draw("text", { x: 34, y: 86 }, percent(probes.margins[0])),
    draw("text", { x: 250, y: 86, "text-anchor": "end" }, percent(probes.margins.at(-1))),
    draw("line", { x1: x(view.margin), x2: x(view.margin), y1: 16, y2: 72, class: "marker" }),
    draw("polyline", { points: probes.margins.map((m, i) => `${x(m)},${y(values[i])}`).join(" ") }),
    ...probes.margins.map((m, i) => draw("circle", { cx: x(m), cy: y(values[i]), r: 2 })),
  ];
  if (threshold !== null) parts.push(draw("line", { x1: 34, x2: 250, y1: y(threshold), y2: y(threshold), class: "threshold" }));
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", `${data.labels[view.label].name} over the loose margin: ` + probes.margins.map((m, i) => `${percent(m)} ${values[i].toFixed(2)}`).join(", "));
}

function announce() {
  const reading = data.maskings[view.mode];
  if (!reading) return;
  const names = reading.findings.map((f, i) => (called(view.mode, i) ? data.labels[i].name : null)).filter(Boolean);
  find(".cxv-live").textContent = `Image read, masking ${view.mode}. ${names.length ? `Above threshold: ${names.join(", ")}.` : "No finding is above its threshold."}`;
}

// ---- Hands: pointer, wheel, keys ---------------------------------------------------------------

const bounded = (value, low, high) => Math.min(high, Math.max(low, value));

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
  const reach = 0.5 * (1 - 1 / view.zoom);
  change({ x: bounded(x, -reach * data.image.width, reach * data.image.width), y: bounded(y, -reach * data.image.height, reach * data.image.height) });
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
      const before = spread(pointers);
      pointers.set(event.pointerId, event);
      drag.moved = true;
      drag.kind = "pinch";
      return zoomAt(pane, spread(pointers) / before, middle(pointers));
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
      const to = onPicture(pane, event);
      change({ box: inside(Math.min(drag.from[0], to[0]), Math.min(drag.from[1], to[1]), Math.max(drag.from[0], to[0]), Math.max(drag.from[1], to[1])) });
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

function spread(pointers) {
  const [a, b] = [...pointers.values()];
  return Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));
}

function middle(pointers) {
  const [a, b] = [...pointers.values()];
  return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
}

function inside(x0, y0, x1, y1) {
  const { width, height } = data.image;
  return [bounded(x0, 0, width), bounded(y0, 0, height), bounded(x1, 0, width), bounded(y1, 0, height)];
}

const toNative = (value, axisIndex) => value * (data.image.native[axisIndex] / (axisIndex ? data.image.height : data.image.width));

function askClick([u, v], add) {
  if (u < 0 || v < 0 || u > data.image.width || v > data.image.height) return;
  ask("mask_prompt", { kind: "click", x: toNative(u, 0), y: toNative(v, 1), add });
}

function askBox() {
  const [x0, y0, x1, y1] = view.box;
  view.box = null;
  if (x1 - x0 < 4 || y1 - y0 < 4) return refresh();
  ask("mask_prompt", { kind: "box", x0: toNative(x0, 0), y0: toNative(y0, 1), x1: toNative(x1, 0), y1: toNative(y1, 1) });
}

let marginTimer = 0;
function setMargin(percent, wait) {
  const margin = bounded(percent, 1, 20) / 100;
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
  const box = view.corner ? inside(Math.min(view.corner[0], cross[0]), Math.min(view.corner[1], cross[1]), Math.max(view.corner[0], cross[0]), Math.max(view.corner[1], cross[1])) : null;
  change({ cross, crossShown: true, box });
}

function setCross() {
  if (view.tool !== "box") return askClick(view.cross, view.tool === "add");
  if (!view.corner) return change({ corner: view.cross });
  view.corner = null;
  askBox();
}

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

new ResizeObserver(refresh).observe(find(".cxv-panes"));
watch("value", receive);
receive();
refresh();
