// Comfort only: the page says everything without it. Tables become sortable, and printing opens what is folded.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("num");
      const was = head.getAttribute("aria-sort");
      const up = was === null ? !numeric || column > 2 : was === "descending";
      const body = table.tBodies[0];
      const key = (row) => row.cells[column].dataset.sort;
      const rows = [...body.rows].sort((a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
        const order = numeric ? left - right : left.localeCompare(right, undefined, { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
const openFolded = () => document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
window.addEventListener("beforeprint", openFolded);
const openAround = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const folded = target && target.closest("details");
  if (folded) { folded.open = true; target.scrollIntoView(); }
};
window.addEventListener("hashchange", openAround);
openAround();
