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
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
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
