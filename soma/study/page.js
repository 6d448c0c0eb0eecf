// Sorts a table by a click on a column's name, and filters its rows. Empty cells stand last in either order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending", way = down ? -1 : 1;
    const key = row => { const v = row.cells[column].dataset.v; return v === "" ? null : isNaN(v) ? v : Number(v); };
    const rank = v => v === null ? 2 : typeof v === "number" ? 0 : 1;
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      if (rank(a) !== rank(b)) return rank(a) - rank(b);
      return way * (typeof a === "number" ? a - b : a.localeCompare(b));
    };
    const rows = [...body.rows].map(row => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    body.append(...rows.map(pair => pair[1]));
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}
for (const field of document.querySelectorAll("input.filter")) {
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of document.getElementById(field.dataset.of).tBodies[0].rows)
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
