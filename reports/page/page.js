"use strict";
// A click on a heading sorts its table: the largest numbers first, names from a to z, and the other way round the next
// time. What is not there stays last, and so does a word among numbers.
document.documentElement.classList.add("scripted");
const numberAtStart = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/i;
const words = new Intl.Collator("en", { numeric: true });

function sort(table, heading) {
  const column = heading.cellIndex;
  const figures = heading.classList.contains("figure");
  const before = heading.getAttribute("aria-sort");
  const first = figures ? "descending" : "ascending";
  const second = figures ? "ascending" : "descending";
  const order = before === first ? second : first;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent.trim();
    const found = figures ? numberAtStart.exec(text) : null;
    return { row, text, number: found ? Number(found[0]) : NaN };
  });
  const numbers = rows.some((one) => !Number.isNaN(one.number));
  const empty = ({ text, number }) =>
    numbers ? Number.isNaN(number) : text === "" || text === "missing" || text === "absent";
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    if (empty(a) !== empty(b)) return empty(a) ? 1 : -1;
    if (empty(a)) return 0;
    return sign * (numbers ? a.number - b.number : words.compare(a.text, b.text));
  });
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", order);
  body.append(...rows.map(({ row }) => row));
}

for (const button of document.querySelectorAll("thead button")) {
  const heading = button.closest("th");
  button.addEventListener("click", () => sort(heading.closest("table"), heading));
}

// Without this script all rows are shown.
for (const button of document.querySelectorAll("button.whole")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const unfolded = button.closest("figure").classList.toggle("unfolded");
    button.setAttribute("aria-expanded", String(unfolded));
  });
}

// A picture is in the page once: it is saved from where it is shown. A table is packed.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return URL.createObjectURL(await new Response(stream).blob());
}

for (const button of document.querySelectorAll("button.save")) {
  const { file, packed } = button.dataset;
  button.hidden = packed && !("DecompressionStream" in globalThis); // the file lies beside the page
  button.addEventListener("click", async () => {
    const link = document.createElement("a");
    link.href = packed ? await unpacked(packed) : button.closest("figure").querySelector("img").src;
    link.download = file;
    link.click();
  });
}

// The filters show the sections that have all chosen values. A link to a hidden section shows all again.
const form = document.querySelector("form.filters");
const marked = Array.from(document.querySelectorAll("[data-marks]"), (section) => {
  return { section, marks: JSON.parse(section.dataset.marks), links: linksTo(section) };
});

function linksTo(section) {
  const links = [...document.querySelectorAll("a[href]")].filter((a) => a.getAttribute("href") === `#${section.id}`);
  return links.map((link) => link.closest("tr, li"));
}

function filter() {
  const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
  for (const { section, marks, links } of marked) {
    const hidden = !chosen.every(([name, value]) => (marks[name] ?? []).includes(value));
    for (const one of [section, ...links]) one.hidden = hidden;
  }
}

function arrive() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!form || !target || !target.closest("[data-marks][hidden]")) return;
  form.reset();
  filter();
  target.scrollIntoView();
}

if (form) {
  form.hidden = false;
  form.addEventListener("change", filter);
  addEventListener("hashchange", arrive);
  filter(); // a browser keeps what was chosen when a page is loaded anew
}
