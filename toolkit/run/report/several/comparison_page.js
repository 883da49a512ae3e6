"use strict";
// Sorting: a click on a column's head; numbers by value, everything else as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [row.cells[column].dataset.value ?? row.cells[column].textContent, row]);
      const known = rows.filter(([value]) => value !== "");
      const numbers = known.every(([value]) => value.trim() !== "" && !Number.isNaN(Number(value)));
      known.sort(([a], [b]) => (numbers ? a - b : a.localeCompare(b, undefined, { numeric: true })) * (down ? -1 : 1));
      body.append(...known.map(([, row]) => row), ...rows.filter(([value]) => value === "").map(([, row]) => row));
    });
  });
}
// Filtering: a row stays while its text holds every word typed.
const search = document.querySelector("#filter");
const shown = document.querySelector("#shown");
const rows = [...document.querySelectorAll("#runs tbody tr")];
const filter = () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += !row.hidden;
  }
  shown.textContent = words.length ? `${count} of ${rows.length} runs` : "";
};
search.addEventListener("input", filter);
filter();
// Showing and hiding a group in every figure.
for (const box of document.querySelectorAll("input[data-group]")) {
  const toggle = () => {
    for (const part of document.querySelectorAll(`svg [id*="-group-${box.dataset.group}-"]`)) {
      part.style.display = box.checked ? "" : "none";
    }
    for (const row of document.querySelectorAll(`tr[data-group="${box.dataset.group}"]`)) {
      row.classList.toggle("off", !box.checked);
    }
  };
  box.addEventListener("change", toggle);
  toggle();
}
for (const tools of document.querySelectorAll("[data-needs-script]")) tools.hidden = false;
