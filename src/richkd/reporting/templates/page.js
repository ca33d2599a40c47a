"use strict";
// The reader's choice of theme outlives a reload where the browser lets a page from disk remember.
const root = document.documentElement;
const remembered = () => { try { return localStorage.getItem("richkd-theme"); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem("richkd-theme", theme); } catch { /* not allowed */ } };
const dark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
if (remembered()) root.dataset.theme = remembered();
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  remember(root.dataset.theme);
});

// A cell sorts by its data-v where it has one, else by its text; a second click turns the order round.
const value = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  return text !== "" && !isNaN(text) ? Number(text) : text;
};
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return rising ? order : -order;
      });
      body.append(...rows);
    });
  });
}
