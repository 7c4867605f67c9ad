// The findings panel: rows, doubts, the margin curve, and what is said of them. It reads the state
// of viewer.js.

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
