"use strict";

// Tables: a click on a column's head sorts by it, again the other way. Empty cells stay at the end.
const collator = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return "v" in cell.dataset ? cell.dataset.v : cell.textContent;
      };
      const compare = (a, b) => (head.className === "n" ? Number(a) - Number(b) : collator.compare(a, b));
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// The picture: one stop of the Tab key instead of one for each layer; the arrow keys move inside.
for (const marks of document.querySelectorAll(".marks")) {
  const links = [...marks.children];
  links.forEach((link, i) => link.setAttribute("tabindex", i ? -1 : 0));
  marks.addEventListener("keydown", (event) => {
    const at = links.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: links.length };
    if (!(event.key in to)) return;
    event.preventDefault();
    const next = links[Math.max(0, Math.min(links.length - 1, to[event.key]))];
    links[at].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  const hint = marks.parentNode.querySelector(".hint").firstChild;
  hint.textContent = "Point at a layer, or use Tab and the arrow keys.";
}
