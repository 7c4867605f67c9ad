// The table of the Batch tab. The server sends all rows with all maskings (batch.py); switching the
// masking, differences and sorting happen here, without a request. Gradio runs this file, after
// evidence.js, as the body of a function of `element`, `props`, `trigger` and `watch`. Texts from
// files only ever become textContent, and pictures data URLs.

const root = element.querySelector(".cxb");
const find = (selector) => root.querySelector(selector);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

let data = { rows: [], columns: [] };
let show = "none"; // a masking, or two with a minus between: their difference
let sorted = { column: -1, falls: true }; // -1: the order of the files; 0: the name; then numbers
let saved = null; // the last CSV that was handed to the browser

// The number of a cell as {value, proven, called, news}, or null: of one masking, or the difference of two.
function cell(row, column) {
  const [first, second] = show.split("-").map((mode) => row.maskings[mode]);
  if (!first || (show.includes("-") && !second)) return null;
  const found = first[column], { p, proven } = found;
  if (second) return { value: p - second[column].p, proven, called: false, news: false };
  return { value: p, proven, called: isCalled(found, 0), news: evidenceOf(found, 0).isNews };
}

function inOrder() {
  const rows = [...data.rows];
  const { column, falls } = sorted;
  if (column === 0) rows.sort((a, b) => (falls ? 1 : -1) * a.name.localeCompare(b.name, undefined, { numeric: true }));
  if (column > 0) {
    const value = (row) => (cell(row, column - 1) || { value: null }).value;
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // without a number: last
      return falls ? y - x : x - y;
    });
  }
  return rows;
}

function receive() {
  if (!props.value) return;
  const [sent] = props.value;
  data = sent;
  if (sent.csv && sent.csv.url !== saved) {
    saved = sent.csv.url;
    const link = make("a");
    link.href = sent.csv.url;
    link.download = sent.csv.name;
    link.click();
  }
  refresh();
}

function refresh() {
  root.toggleAttribute("data-empty", !data.rows.length);
  for (const button of root.querySelectorAll("[data-show]")) {
    const isOn = button.dataset.show === show;
    button.setAttribute("aria-checked", String(isOn));
    button.tabIndex = isOn ? 0 : -1;
  }
  find("[data-do=csv]").disabled = !data.rows.some((row) => row.state !== "waiting");
  find("thead tr").replaceChildren(...["File", ...data.columns].map(heading), make("th", "", "Remarks"));
  find("tbody").replaceChildren(...inOrder().map(line));
}

function heading(name, column) {
  const head = make("th");
  head.scope = "col";
  const isSorted = sorted.column === column;
  if (isSorted) head.setAttribute("aria-sort", sorted.falls === (column > 0) ? "descending" : "ascending");
  const button = make("button", "", name);
  button.type = "button";
  button.append(make("span", "cxb-arrow", isSorted ? (sorted.falls === (column > 0) ? " ▼" : " ▲") : ""));
  button.addEventListener("click", () => {
    if (!isSorted) sorted = { column, falls: true };
    else if (sorted.falls) sorted = { column, falls: false };
    else sorted = { column: -1, falls: true };
    refresh();
    root.querySelectorAll("thead button")[column].focus();
  });
  head.append(button);
  return head;
}

function line(row) {
  const node = make("tr");
  node.dataset.state = row.state;
  const name = make("th");
  name.scope = "row";
  if (row.thumbnail) {
    const image = make("img");
    image.src = row.thumbnail;
    image.alt = "";
    name.append(image);
  }
  const open = make("button", "cxb-open", row.name);
  open.type = "button";
  open.title = "Open on the Read tab";
  open.addEventListener("click", () => trigger("row_opened", { id: row.id, order: inOrder().map((other) => other.id) }));
  name.append(open);
  node.append(name, ...data.columns.map((_, column) => number(cell(row, column))), remarks(row));
  return node;
}

function number(found) {
  const node = make("td", "cxb-number");
  if (!found) return node;
  const isDifference = show.includes("-");
  const sign = isDifference && found.value >= 0 ? "+" : isDifference ? "−" : "";
  node.append(make("span", "", sign + Math.abs(found.value).toFixed(2)));
  if (!found.proven) node.append(make("i", "", " ?"));
  node.toggleAttribute("data-called", found.called);
  node.toggleAttribute("data-news", found.news);
  const bar = make("div", "cxb-bar-line");
  bar.style.width = `${Math.round(100 * Math.min(1, Math.abs(found.value)))}%`;
  if (found.value < 0) bar.dataset.falls = "";
  node.append(bar);
  return node;
}

function remarks(row) {
  const node = make("td", "cxb-remarks", { waiting: "Not read yet." }[row.state] || row.remarks);
  if (row.state !== "withheld") return node;
  const button = make("button", "", "Show the numbers anyway");
  button.type = "button";
  button.addEventListener("click", () => trigger("row_accepted", { id: row.id }));
  node.append(" ", button);
  return node;
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.show) choose(button.dataset.show);
  if (button.dataset.do === "csv") trigger("csv_wanted", {});
});

function choose(what) {
  show = what;
  refresh();
  find(".cxb-live").textContent = `The table shows ${find(`[data-show="${what}"]`).textContent}.`;
}

find(".cxb-group").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...root.querySelectorAll("[data-show]")];
  const next = buttons[(buttons.findIndex((b) => b.dataset.show === show) + step + buttons.length) % buttons.length];
  choose(next.dataset.show);
  next.focus();
});

// On the Read tab the arrow keys go through the list, while nothing there needs them.
document.addEventListener("keydown", (event) => {
  const button = { ArrowLeft: ".cxr-previous", ArrowRight: ".cxr-next" }[event.key];
  if (!button || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.defaultPrevented) return;
  if (event.target.matches?.("input, textarea, select, [role=tab], [role=radio], [role=slider]")) return;
  const node = document.querySelector(`button${button}, ${button} button`);
  if (!node || node.offsetParent === null || node.disabled) return;
  event.preventDefault();
  node.click();
});

watch("value", receive);
receive();
refresh();
