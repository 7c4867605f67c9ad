// The findings panel: rows, doubts, and the folds below. It reads the state of viewer.js.

const called = (mode, index) => isCalled(shown().maskings[mode].findings[index], view.point);

const reading = (mode = view.mode) => shown()?.maskings?.[mode] ?? null;

const NAMES = { none: "whole image", loose: "loose", tight: "tight" };

function showFindings() {
  const read = reading();
  find("[data-out=mode]").textContent = read ? NAMES[view.mode] : "";
  showDoubts();
  showPlanted();
  const none = find(".cxv-none");
  none.hidden = Boolean(read);
  none.textContent = whyNothing();
  for (const part of [".cxv-rows", ".cxv-folds", ".cxv-looks"]) find(part).hidden = !read;
  if (!read) return;
  const rows = find(".cxv-rows");
  if (rows.dataset.order !== order.join()) buildRows(rows);
  const isStale = busy && (asked === "all" || (asked === "loose" && view.mode === "loose"));
  rows.toggleAttribute("data-stale", isStale);
  order.forEach((i, at) => showRow(rows.children[at], read.findings[i], i, isStale));
  rows.lastElementChild.querySelector("b").textContent = read.noFinding.toFixed(2);
  showLooks(read);
  showFold(read);
  keepInSight(rows);
}

// On a narrow page the rows are chips side by side: the chosen one is brought into sight.
let lastInSight = null;
function keepInSight(rows) {
  if (!isNarrow() || view.label === lastInSight) return;
  lastInSight = view.label;
  const row = rows.children[Math.max(0, order.indexOf(view.label))];
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  rows.scrollTo({ left: row.offsetLeft - rows.offsetLeft - 8, behavior: isStill ? "instant" : "smooth" });
}

function buildRows(rows) {
  rows.dataset.order = order.join();
  rows.replaceChildren(...order.map((i) => {
    const label = data.labels[i];
    const row = make("button", "cxv-row");
    row.type = "button";
    row.setAttribute("role", "radio");
    const line = make("span", "cxv-line");
    line.append(make("span", "cxv-name", label.name), make("em"));
    const track = make("span", "cxv-track");
    track.append(make("i"), ...MODES.map((mode) => {
      const dot = make("u");
      dot.dataset.mode = mode;
      return dot;
    }));
    const small = make("span", "cxv-small");
    const p = make("span", "", "p ");
    p.append(make("b"));
    small.append(make("span", "cxv-place"), p);
    row.append(line, track, small);
    row.addEventListener("click", () => choose(i));
    return row;
  }));
  const last = make("div", "cxv-row cxv-derived");
  const line = make("span", "cxv-line");
  line.append(make("span", "cxv-name", "None of the five"), make("b"));
  last.append(line, make("span", "cxv-small", "1 − the highest p; says nothing of other diseases"));
  rows.append(last);
}

function showRow(row, finding, i, isStale) {
  const evidence = evidenceOf(finding, view.point);
  row.dataset.word = evidence.word;
  row.toggleAttribute("data-news", evidence.isNews);
  const isChosen = i === view.label;
  row.setAttribute("aria-checked", isChosen);
  row.tabIndex = isChosen || (view.label === null && i === order[0]) ? 0 : -1;
  row.querySelector("em").textContent = isStale ? "updating…" : evidenceText(evidence);
  row.querySelector("b").textContent = finding.p.toFixed(2);
  const before = data.planted && data.maskings ? data.maskings[view.mode]?.findings[i].p : undefined;
  const place = before === undefined ? placeText(finding) || agreement(shown().maskings, view.mode, i, view.point) : `p was ${before.toFixed(2)} without it`;
  row.querySelector(".cxv-place").textContent = finding.proven || before !== undefined ? place : "";
  const point = pointAt(finding, view.point);
  const zone = row.querySelector("i");
  zone.hidden = !finding.proven || !point;
  if (point) zone.style.left = `${100 * positionOf(finding, point.threshold)}%`;
  for (const dot of row.querySelectorAll("u")) {
    const other = reading(dot.dataset.mode);
    dot.hidden = !other;
    if (!other) continue;
    const its = other.findings[i];
    dot.style.left = `${100 * positionOf(its)}%`;
    dot.title = `${NAMES[dot.dataset.mode]} ${its.p.toFixed(2)}`;
    dot.toggleAttribute("data-chosen", dot.dataset.mode === view.mode);
  }
}

function showPlanted() {
  const box = find(".cxv-planted");
  const planted = data && data.planted;
  box.hidden = !planted;
  if (planted) box.textContent = `SYNTHETIC: a ${planted.kind} was planted into this image. The numbers are about that picture, not about the patient.`;
}

function whyNothing() {
  if (!data) return "No image yet.";
  if (data.stage) return data.stage;
  if (data.withheld) return "No number is shown for this image.";
  return `No finding is shown for ${NAMES[view.mode]}. ${view.mode !== "none" && !data.lungs ? "There is no lung mask." : "There is no classifier for it."}`;
}

function showDoubts() {
  const box = find(".cxv-doubts");
  const doubts = (data && data.doubts) || [];
  box.hidden = !doubts.length;
  if (!doubts.length) return box.replaceChildren();
  const head = data.withheld ? "This image may not be what the models can read" : "Shown despite a warning";
  const list = make("ul");
  list.append(...doubts.map(({ message }) => make("li", "", message)));
  box.replaceChildren(make("strong", "", head), list);
  if (data.stage) return;
  const cures = make("div", "cxv-cures");
  const offer = (className, text, act) => {
    const button = make("button", className, text);
    button.type = "button";
    button.addEventListener("click", act);
    cures.append(button);
  };
  for (const remedy of new Set(doubts.map((doubt) => doubt.remedy).filter(Boolean))) {
    offer("cxv-cure", remedyText(remedy), () => ask("read_again", { remedy }));
  }
  if (data.withheld) offer("cxv-accept", "Show the numbers anyway", actions.accept);
  box.append(cures);
}

// Such as "Turn it right and invert it".
function remedyText(remedy) {
  const words = { "turn-right": "turn it right", "turn-left": "turn it left", "turn-half": "turn it by 180°", mirror: "mirror it", invert: "invert it" };
  const text = remedy.split("+").map((part) => (part.startsWith("crop") ? "crop it to the film" : words[part] ?? part)).join(" and ");
  return text[0].toUpperCase() + text.slice(1);
}

// What the answer hangs on, and what stands out; room is kept for the longest of both.
function showLooks(read) {
  const box = find(".cxv-looks");
  const lines = [];
  if (strongest(read.findings, view.point) === null) lines.push(elsewhere() || "Nothing stands out: no finding is above its threshold with evidence for it.");
  const probes = data.probes;
  if (view.label !== null && probes && probes.outside && data.maskings.none && !data.planted) {
    const outside = probes.outside[view.label], whole = data.maskings.none.findings[view.label].p;
    lines.push(`Outside-lung probe: with the lungs removed p is ${outside.toFixed(2)} (whole image: ${whole.toFixed(2)}). That much does not come from the lungs.`);
  }
  box.textContent = lines.join(" ");
}

// What stands out under other maskings, where nothing does under this one.
function elsewhere() {
  const others = MODES.flatMap((mode) => {
    const read = shown().maskings[mode], found = read && mode !== view.mode ? strongest(read.findings, view.point) : null;
    return found === null ? [] : [`${data.labels[found].name} under ${NAMES[mode]}`];
  });
  return others.length ? `Nothing stands out here, but ${others.join(", ")}.` : "";
}

// ---- The folds: how good, margin, numbers ----------------------------------------------------------

function showFold(read) {
  for (const tab of all(".cxv-tabs button")) {
    const isOpen = tab.dataset.fold === view.fold;
    tab.setAttribute("aria-selected", isOpen);
    tab.tabIndex = isOpen ? 0 : -1;
    find(`#cxv-${tab.dataset.fold}`).hidden = !isOpen;
  }
  showPoints(read);
  showDetail(view.label === null ? null : read.findings[view.label]);
  showCurve();
  showNumbers();
}

function showDetail(finding) {
  const lines = [];
  if (finding) {
    const label = data.labels[view.label];
    lines.push(`${label.name}. ${label.meaning}`);
    if (finding.auroc) lines.push(`On test patients: AUROC ${finding.auroc}.`);
    if (!finding.proven) lines.push("These weights were not shown to beat chance for it, so there is no verdict.");
    const point = pointAt(finding, view.point);
    const { ratio, isOfCall } = evidenceOf(finding, view.point);
    if (ratio && !isOfCall) lines.push(`Likelihood ratio of this p ×${ratioText(ratio.value)}${intervalText(ratio)}, from the calibration: multiply your own odds before the film by it.`);
    if (isOfCall && finding.proven) lines.push("These weights tell no likelihood ratio of a single p; the words beside it are those of being above the threshold.");
    if (point && finding.proven) {
      if (point.sensitivity) lines.push(`At ${thresholdText(finding, point)}: sensitivity ${point.sensitivity}, specificity ${point.specificity}.`);
      if (point.ratio) lines.push(`Likelihood ratio of being above it ×${ratioText(point.ratio.value)}${intervalText(point.ratio)}, on test patients.`);
    }
  } else lines.push("Choose a finding to see how good its number is.");
  find(".cxv-detail").replaceChildren(...lines.map((text) => make("p", "cxv-note", text)));
}

function showPoints(read) {
  const select = find("[data-point]");
  const names = read.findings[0].points.map((point) => point.name);
  select.parentElement.hidden = names.length < 2;
  if ([...select.options].map((o) => o.value).join() !== names.join()) {
    select.replaceChildren(...names.map((name) => new Option(name)));
  }
  if (names.length) select.selectedIndex = Math.min(view.point, names.length - 1);
}

function showNumbers() {
  const rows = [["", ...MODES.map((mode) => NAMES[mode])]];
  const number = (mode, value) => (reading(mode) ? value(reading(mode)).toFixed(2) : "–");
  order.forEach((i) => rows.push([data.labels[i].name, ...MODES.map((mode) => number(mode, (r) => r.findings[i].p))]));
  rows.push(["None of the five", ...MODES.map((mode) => number(mode, (r) => r.noFinding))]);
  find(".cxv-table").replaceChildren(...rows.map((cells, r) => {
    const row = make("tr");
    row.append(...cells.map((text, c) => {
      const cell = make(r === 0 || c === 0 ? "th" : "td", "", text);
      if (r === 0 && c) cell.scope = "col";
      if (c === 0 && r) cell.scope = "row";
      cell.toggleAttribute("data-chosen", c > 0 && MODES[c - 1] === view.mode);
      return cell;
    }));
    return row;
  }));
}

function showCurve() {
  const svg = find(".cxv-curve"), note = find("#cxv-margin .cxv-note");
  const probes = data.probes;
  const hasCurve = Boolean(view.label !== null && probes && probes.margins.length > 1 && data.maskings?.loose);
  svg.toggleAttribute("hidden", !hasCurve);
  note.textContent = hasCurve ? "Each point is a reading at that margin, by the weights for loose." : busy || !probes ? "Not measured yet." : "There is no curve for this image.";
  if (!hasCurve) return;
  const finding = data.maskings.loose.findings[view.label];
  const values = probes.curves.map((all) => all[view.label]);
  const point = pointAt(finding, view.point);
  const threshold = finding.proven && point ? point.threshold : null;
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

// ---- What is said aloud ------------------------------------------------------------------------------

// One sentence for whoever does not see the page, when something changed that changes what is said.
// Without numbers none: the next image's may be the same words, and are said again.
let lastSaid = "";
function say() {
  const read = reading(), text = read ? sentence(read) : "";
  if ((read && busy) || text === lastSaid) return;
  lastSaid = text;
  find(".cxv-live").textContent = text;
}

function sentence(read) {
  const finding = view.label === null ? null : read.findings[view.label];
  const layout = { pair: "", compare: " Three maskings side by side.", grid: " All findings." }[view.layout];
  return finding
    ? `${NAMES[view.mode]}. ${data.labels[view.label].name} ${finding.p.toFixed(2)}, ${evidenceText(evidenceOf(finding, view.point)).replace("×", "times ")}.${layout}`
    : `${NAMES[view.mode]}. Nothing stands out.${layout}`;
}
