// The tools that leave something on the image: correcting the lungs, planting a lesion, measuring.

const marks = []; // one per correction asked for: {kind, at, add}, at in pixels of the picture sent

const toolBar = () => (view.tool === "edit" || view.tool === "plant" ? view.tool : null);

const brushRadius = () => (view.brush * data.image.height) / 2;

function editTip() {
  if (!data || !data.lungs) return "There is no mask to correct.";
  if (view.editWith === "brush") return view.sign === "add" ? "Drag over what belongs to a lung." : "Drag over what does not.";
  if (view.editWith === "click") return "Click; the network finds what belongs to it.";
  return "Draw a box around one lung, which is found anew.";
}

function setTool(tool) {
  if (!data) return;
  change({ tool: view.tool === tool ? null : tool, corner: null, box: null, stroke: null, length: null, crossShown: false });
}

// ---- Correcting the lungs ---------------------------------------------------------------------------

function askClick(point, add) {
  if (!isWithin(data.image, point)) return;
  const [x, y] = toNative(data.image, point);
  marks.push({ kind: "click", at: point, add });
  ask("mask_prompt", { kind: "click", x, y, add });
}

function askBox() {
  const box = view.box;
  change({ box: null, corner: null });
  if (box[2] - box[0] < 4 || box[3] - box[1] < 4) return;
  const [x0, y0] = toNative(data.image, box.slice(0, 2)), [x1, y1] = toNative(data.image, box.slice(2));
  marks.push({ kind: "box" });
  ask("mask_prompt", { kind: "box", x0, y0, x1, y1 });
}

// A stroke counts at once on the screen, and is asked for when it is let go of.
function askStroke({ points, radius, add }) {
  marks.push({ kind: "stroke", points, radius, add });
  const native = toNative(data.image, [radius, 0])[0];
  ask("mask_painted", { strokes: [{ add, radius: native, points: points.map((point) => toNative(data.image, point)) }] });
}

function undo() {
  if (!data) return;
  marks.pop();
  ask("mask_undo");
}

function automatic() {
  if (!data) return;
  marks.push({ kind: "automatic" });
  ask("mask_reset");
}

// ---- Planting a lesion --------------------------------------------------------------------------------

function askPlant(point) {
  if (!isWithin(data.image, point)) return;
  const [x, y] = toNative(data.image, point);
  const label = data.labels.findIndex(({ name }) => name.toLowerCase() === view.kind);
  if (label >= 0) choose(label); // what becomes of it is what one looks for
  ask("plant", { kind: view.kind, x, y, diameter: view.diameter, contrast: view.contrast });
}

// ---- Measuring ------------------------------------------------------------------------------------------

const lengthText = (length) => lengthInWords(length, data.image);
const pixelText = (point) => pointInWords(point, pyramid()[0], data.image);
const windowText = () => windowInWords(view, data.image.range);

// ---- Drawing ------------------------------------------------------------------------------------------

function drawTools(context, at, ratio) {
  const pane = (point) => toPane(at, point);
  context.lineWidth = ratio;
  context.lineCap = context.lineJoin = "round";
  if (view.tool === "edit") {
    const since = marks.findLastIndex((mark) => mark.kind === "automatic") + 1;
    // What the server has answered is in the outline; strokes on their way are shown here.
    const answered = busy || questions.length ? data.corrections || 0 : marks.length;
    marks.slice(since).forEach((mark, i) => {
      if (mark.kind === "click") drawSign(context, pane(mark.at), mark.add, ratio);
      if (mark.kind === "stroke" && i + since >= answered) drawStroke(context, mark, pane, at.scale);
    });
    if (view.stroke) drawStroke(context, view.stroke, pane, at.scale);
  }
  context.strokeStyle = "#fff";
  context.lineWidth = ratio;
  if (view.box) {
    const [x0, y0] = pane(view.box.slice(0, 2)), [x1, y1] = pane(view.box.slice(2));
    context.setLineDash([6 * ratio, 4 * ratio]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
  }
  if (view.cross && view.crossShown && view.tool) {
    const [x, y] = pane(view.cross), arm = 9 * ratio;
    context.beginPath();
    context.moveTo(x - arm, y); context.lineTo(x + arm, y);
    context.moveTo(x, y - arm); context.lineTo(x, y + arm);
    context.stroke();
    if (view.tool === "edit" && view.editWith === "brush") circle(context, [x, y], brushRadius() * at.scale);
  }
  if (view.length) {
    const ends = view.length.map(pane);
    context.lineWidth = 1.5 * ratio;
    context.beginPath();
    ends.forEach((end) => context.lineTo(...end));
    context.stroke();
    ends.forEach((end) => circle(context, end, 3 * ratio));
    write(context, lengthText(view.length), ends[1][0] + 8 * ratio, ends[1][1] - 8 * ratio, ratio);
  }
}

function circle(context, [x, y], radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
}

function write(context, text, x, y, ratio) {
  context.font = `${12 * ratio}px system-ui, sans-serif`;
  context.lineWidth = 3 * ratio;
  context.strokeStyle = "#000";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

function drawStroke(context, { points, radius, add }, pane, scale) {
  context.strokeStyle = add ? "rgb(86 180 233 / .45)" : "rgb(240 110 110 / .45)";
  context.lineWidth = 2 * radius * scale;
  context.beginPath();
  points.forEach((point) => context.lineTo(...pane(point)));
  context.lineTo(...pane(points.at(-1))); // so that a dot is drawn too
  context.stroke();
}

function drawSign(context, [x, y], add, ratio) {
  const arm = 5 * ratio;
  for (const [colour, line] of [["#000", 4], [add ? "#7fd0ff" : "#ff9d9d", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.beginPath();
    context.moveTo(x - arm, y); context.lineTo(x + arm, y);
    if (add) { context.moveTo(x, y - arm); context.lineTo(x, y + arm); }
    context.stroke();
  }
}

// Where there is a spacing: a round length at the lower rim.
function drawScaleBar(context, at, width, height, ratio) {
  const spacing = data.image.spacing;
  if (!spacing) return;
  const mm = roundLength(spacing / at.scale, 0.25 * width);
  if (!mm) return;
  const long = (mm * at.scale) / spacing, x = (width - long) / 2, y = height - 8 * ratio;
  for (const [colour, line] of [["#000", 4], ["#fff", 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.beginPath();
    context.moveTo(x, y); context.lineTo(x + long, y);
    context.stroke();
  }
  write(context, mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, x + long + 6 * ratio, y + 4 * ratio, ratio);
}

// What was planted is marked on the picture itself, wherever it is shown or saved.
function drawPlanted(context, at, ratio) {
  const { x, y, diameter } = data.planted;
  const centre = toPane(at, [x, y]), radius = (diameter / 2) * at.scale + 4 * ratio;
  context.setLineDash([4 * ratio, 4 * ratio]);
  context.strokeStyle = "#f0b860";
  context.lineWidth = 1.5 * ratio;
  circle(context, centre, radius);
  context.setLineDash([]);
  write(context, "SYNTHETIC", centre[0] - 30 * ratio, centre[1] + radius + 14 * ratio, ratio);
}
