"use strict";
// A click on a column's head sorts its table by it, a second one the other way round; what is unknown stays last.
for (const head of document.querySelectorAll("th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const at = head.cellIndex;
    const figures = head.classList.contains("n");
    const first = figures ? "descending" : "ascending";
    const other = figures ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of head.parentNode.cells) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => {
      const cell = row.cells[at];
      return figures ? (cell.dataset.value === undefined ? null : Number(cell.dataset.value)) : cell.textContent;
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (figures ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    };
    body.append(...[...body.rows].sort(compare));
  });
}
