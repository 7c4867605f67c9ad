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
const MOST_STROKES = 20; // that are asked for together
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
let fine = null; // the same at its native size with 16 bits, once it was asked for
let planted = null; // the picture with a lesion planted
let levels = null; // {width, height, values}: from which margin on a pixel is kept
let panes = []; // of `layOut`
let busy = false; // an answer from the server is under way, so numbers are stale
let asked = null; // what that answer will change: "all" or "loose"
let opened = { name: "", again: null }; // what was opened last, and how to open it once more; never stored
let link = "there"; // to the server: "there", "lost", or "gone": it has forgotten the image
let fileName = ""; // of the file that is shown: they are known to this browser alone
let order = []; // of the findings in the panel: kept for an image, so that no row moves at a toggle
let hasChosen = false; // the reader has chosen a finding, which then stays from image to image
const renderer = makeRenderer(() => refresh());

// What is looked at: the image, or the one with a planted lesion.
const shown = () => (data && data.planted && planted ? { ...data, ...data.planted } : data);

// ---- What comes from the server ------------------------------------------------------------------

// A payload adds to what is there, unless it belongs to another study, and then it is complete.
let turns = 0;
async function receive() {
  if (!props.value) return;
  const [{ case: archive, ...sent }] = props.value;
  if (sent.gone && !data) return; // asked about an image that was cleared meanwhile
  if (sent.gone) link = "gone";
  if (sent.fine) return receiveFine(sent);
  const turn = ++turns;
  if (sent.clear) return clear();
  if (sent.failed) return fail(sent.reason);
  if (archive) takeAway({ url: archive, name: `${stem()}${data?.planted ? "-SYNTHETIC" : ""}.zip` });
  const isNew = !data || sent.study !== data.study;
  if (isNew && !sent.image) return;
  // A stage tells the picture again, a remedy brings another one.
  if (!isNew && sent.image?.url === data.image.url) sent.image = data.image;
  const isOther = isNew || Boolean(sent.image && sent.image !== data.image);
  const merged = isNew ? sent : { ...data, ...sent };
  const image = isOther ? await pictureOf(merged.image) : picture;
  const changed = merged.planted ? await pictureOf(merged.planted.image) : null;
  const map = merged.lungs ? await levelsOf(merged.lungs.levels) : null;
  if (turn !== turns) return; // overtaken by a later one, which holds all of this
  if (isNew) {
    Object.assign(view, UPRIGHT, { corner: null, box: null, stroke: null, length: null, tool: null, solo: null, swapped: false });
    view.cross = [sent.image.width / 2, sent.image.height / 2];
    questions.length = marks.length = 0;
    if (renderer) renderer.forget();
    fileName = opened.name;
    sent.again = opened.again;
    link = "there";
  }
  const isFirstReading = merged.maskings && (isNew || !data.maskings);
  data = merged;
  picture = image;
  if (isOther) {
    fine = fineAskedOf = null;
    offerWindows();
  }
  planted = changed;
  levels = map;
  busy = Boolean(data.stage);
  if (!busy) marks.length = Math.min(marks.length, (data.corrections || 0) + questions.length);
  if (data.maskings?.loose && !questions.some(({ event }) => event === "margin_changed")) view.margin = data.maskings.loose.margin;
  if (isFirstReading) {
    const read = reading() ?? Object.values(data.maskings)[0];
    order = read ? byEvidence(read.findings) : data.labels.map((_, i) => i);
  }
  if (isFirstReading && !hasChosen) view.label = firstLook();
  if (!busy) askNext();
  refresh();
}

// The page as it was before any image.
function clear() {
  data = picture = fine = planted = levels = null;
  questions.length = marks.length = 0;
  hasChosen = false;
  view = { ...START, ...remembered() };
  busy = false;
  refresh();
}

// No answer will come to what was asked.
function fail(reason) {
  busy = false;
  questions.length = 0;
  marks.length = Math.min(marks.length, (data && data.corrections) || 0);
  if (data?.maskings?.loose) view.margin = data.maskings.loose.margin;
  if (data && data.stage) data.stage = reason || "This image was not read to its end.";
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

// The grey levels of a picture sent, and its halves.
const pictureOf = once(async ({ url, deep }) => {
  const { data: rgba, width, height } = await pixelsOf(url);
  return { width, height, pyramid: pyramidOf(greyLevels(rgba, deep), width, height) };
});

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
  if (link !== "there") {
    if (data.maskings?.loose) view.margin = data.maskings.loose.margin;
    marks.length = Math.min(marks.length, data.corrections || 0);
    return refresh();
  }
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
  while (next.event === "mask_painted" && questions[0]?.event === "mask_painted" && next.detail.strokes.length < MOST_STROKES) next.detail.strokes.push(...questions.shift().detail.strokes);
  busy = true;
  asked = next.changes;
  trigger(next.event, { ...next.detail, study: data.study });
}

// The picture at its native size with 16 bits is asked for once a reader looks at what the first one
// does not show. No number waits for it.
let fineAskedOf = null;
function askForFine() {
  if (!data || data.planted || link !== "there" || fineAskedOf === data.study || !needsFine(data.image, view, deviceScale())) return;
  fineAskedOf = data.study;
  trigger("fine_wanted", { study: data.study });
}

async function receiveFine(sent) {
  const image = data?.image, finer = await pictureOf(sent.fine);
  if (!data || data.study !== sent.study || data.image !== image) return; // meanwhile there is another one
  fine = finer;
  refresh();
}

// What connection.js tells. After a break the server is asked whether it still has the image.
function onLost() {
  link = "lost";
  fail("The connection was lost before this image was read.");
}

function onBack() {
  link = "there";
  if (data) trigger("still_there", { study: data.study });
  refresh();
}

function showConnection() {
  const words = {
    there: "",
    lost: "Connection lost. Reconnecting…",
    gone: `The server no longer has this image. What you see stays; nothing new can be asked.${data?.corrections ? " Corrections of the lungs would have to be made again." : ""}`,
  }[link];
  const box = find(".cxv-connection"), text = box.querySelector("span");
  box.hidden = !words || (link === "gone" && !data);
  if (text.textContent !== words) text.textContent = words;
  box.querySelector("button").hidden = link !== "gone" || !data?.again;
}

// A page that was loaded anew, by hand or because the server was, says what became of its image.
function tellOfReload() {
  try {
    if (sessionStorage.getItem("cxrdemo.open")) find(".cxv-welcome p").textContent = "The page was loaded anew and no longer has its image. Please open it again.";
  } catch {
    // Storage is off: nothing is told.
  }
}

function rememberThatOneIsOpen() {
  try {
    if (data) sessionStorage.setItem("cxrdemo.open", "yes");
    else if (hasBar) sessionStorage.removeItem("cxrdemo.open"); // cleared by hand
  } catch {
    // Storage is off.
  }
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

// ---- Frames ----------------------------------------------------------------------------------------

let waiting = null; // null: no frame is asked for; else whether it is the panes alone that changed
function refresh(panesAlone = false) {
  if (waiting === null) {
    requestAnimationFrame(() => {
      const alone = waiting;
      waiting = null;
      if (!alone) layOut();
      drawPanes();
      askForFine();
      showControls();
      if (alone) return;
      showFindings();
      say();
      remember();
      rememberThatOneIsOpen();
    });
  }
  waiting = waiting === null ? panesAlone : waiting && panesAlone;
}

// ---- The bar and the legend ----------------------------------------------------------------------------

function showControls() {
  Object.assign(root.dataset, { mode: view.mode, layout: view.layout });
  root.toggleAttribute("data-empty", !data);
  root.toggleAttribute("data-busy", busy);
  root.toggleAttribute("data-probed", Boolean(data && data.probes));
  root.toggleAttribute("data-zoomed", view.zoom > 1);
  root.toggleAttribute("data-tooled", view.tool !== null);
  root.dataset.renderer = renderer && picture && renderer.takes(pyramid()) ? "webgl" : "2d";
  for (const key of ["mode", "layout", "sign", "kind", "scale"]) chooseAmong(all(`button[data-${key}]`), key, view[key]);
  chooseAmong(all("button[data-tool]"), "tool", view.editWith);
  all("[data-toggle]").forEach((b) => b.setAttribute("aria-pressed", Boolean(view[b.dataset.toggle])));
  if (data && data.lungs) {
    const percent = 100 * data.lungs.step;
    Object.assign(find("[data-slide=margin]"), { min: percent, max: percent * data.lungs.count, step: percent });
  }
  if (data && data.lesions) {
    const [low, high] = data.lesions[view.kind];
    view.diameter = bounded(view.diameter, low, high);
    Object.assign(find("[data-slide=diameter]"), { min: Math.round(100 * low), max: Math.round(100 * high) });
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
  find("[data-do=unplant]").disabled = !(data && data.planted);
  showLegend();
  showPointed();
  showConnection();
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

// The panes as they are seen, with what tells how they came about: as finely as the screen shows
// them, and no picture at less than its own pixels.
function save() {
  if (waiting === false) layOut(); // what was just asked for stands in the panes from the next frame on
  const visible = panes.filter((pane) => !pane.box.hidden);
  const pane = { width: visible[0].film.clientWidth, height: visible[0].film.clientHeight };
  const { width, height, ratio, at } = seenOf(data.image, pane, view, Math.min(window.devicePixelRatio || 1, 2));
  const columns = Math.min(3, visible.length), rows = Math.ceil(visible.length / columns);
  const strip = Math.round(20 * ratio), room = 2 * strip; // a line for the title, and one for the chips
  const canvas = make("canvas");
  canvas.width = columns * width;
  canvas.height = rows * (height + room) + strip;
  const context = canvas.getContext("2d", { alpha: false });
  const film = new OffscreenCanvas(width, height).getContext("2d", { alpha: false });
  const write = (text, x, y, most, colour = "#fff") => {
    context.fillStyle = colour;
    context.fillText(text, x + 6 * ratio, y - 6 * ratio, most - 12 * ratio);
  };
  context.font = `${Math.round(12 * ratio)}px system-ui, sans-serif`;
  visible.forEach((one, i) => {
    const x = (i % columns) * width, y = Math.floor(i / columns) * (height + room);
    paint(film, one, width, height, at, ratio);
    context.drawImage(film.canvas, x, y);
    write(one.title.textContent, x, y + height + strip, width);
    const chips = [...one.chips.children], isWarning = chips.some((chip) => chip.hasAttribute("data-warning"));
    write(chips.map((chip) => chip.textContent).join(" · "), x, y + height + room, width, isWarning ? "#f0b860" : "#a9b1ba");
  });
  const finding = view.label === null ? null : reading()?.findings[view.label];
  const point = finding && pointAt(finding, view.point);
  const words = [
    data.synthetic || data.planted ? "SYNTHETIC" : "", view.zoom > 1 ? `${fileName} (part of it)` : fileName,
    finding && point && finding.proven ? `threshold ${thresholdText(finding, point)}` : "",
    view.mode === "loose" || view.layout === "compare" ? `margin ${Math.round(100 * view.margin)} %` : "",
    view.heat ? `heat on ${view.scale === "own" ? "its own" : "one shared"} scale` : "",
    `window ${windowText()}`, "research use only, not a medical device",
  ];
  write(words.filter(Boolean).join(" · "), 0, canvas.height, canvas.width);
  canvas.toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    const parts = [stem(), view.layout === "compare" ? "maskings" : view.mode, view.layout === "grid" || view.label === null ? "" : data.labels[view.label].name];
    takeAway({ url, name: `${parts.filter(Boolean).join("-").toLowerCase()}.png` });
    URL.revokeObjectURL(url);
  });
}

const stem = () => fileName.replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-") || "chest-x-ray";

function takeAway({ url, name }) {
  const link = make("a");
  link.href = url;
  link.download = name;
  link.click();
}

takeHands();
tellOfReload();
window.addEventListener("cxr:lost", onLost);
window.addEventListener("cxr:back", onBack);
new ResizeObserver(() => refresh()).observe(find(".cxv-panes"));
watch("value", receive);
receive();
refresh();
