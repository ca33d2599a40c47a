"use strict";
// The selected theme is kept across reloads if the browser allows storage for local files.
const root = document.documentElement;
const storedTheme = () => { try { return localStorage.getItem("richkd-theme"); } catch { return null; } };
const storeTheme = (theme) => { try { localStorage.setItem("richkd-theme", theme); } catch { /* storage is not allowed */ } };
const dark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
if (storedTheme()) root.dataset.theme = storedTheme();
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  storeTheme(root.dataset.theme);
});

// Rows are sorted by data-v of the cell, or by its text without data-v. A second click reverses the order.
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
