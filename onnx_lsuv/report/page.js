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

// Long tables: what is typed, and a status, choose the rows that are shown.
for (const table of document.querySelectorAll("table.sortable")) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 10) continue;
  const [line, text, choice, shown] = ["div", "input", "select", "output"].map((tag) => document.createElement(tag));
  const status = (row) => row.querySelector("[data-status]").dataset.status;
  line.className = "filter";
  text.type = "search";
  text.placeholder = "name, op, shape";
  text.setAttribute("aria-label", "Show layers that contain");
  choice.setAttribute("aria-label", "Show layers of this status");
  choice.append(new Option("every status", ""), ...[...new Set(rows.map(status))].map((word) => new Option(word)));
  const apply = () => {
    const wanted = text.value.trim().toLowerCase();
    const whole = (row) => [row.textContent, ...[...row.querySelectorAll("[title]")].map((each) => each.title)].join(" ");
    for (const row of rows) {
      row.hidden = (choice.value && status(row) !== choice.value) || !whole(row).toLowerCase().includes(wanted);
    }
    shown.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  line.addEventListener("input", apply);
  addEventListener("hashchange", () => {
    const target = document.querySelector(":target");
    if (!target || !target.hidden) return;
    text.value = choice.value = "";
    apply();
    target.scrollIntoView();
  });
  line.append(text, choice, shown);
  table.parentNode.before(line);
  apply();
}

// A name that takes several lines ends them behind a slash or a dot where it can.
for (const name of document.querySelectorAll("td code")) {
  const parts = name.textContent.split(/(?<=.[/.])(?=.)/);
  name.replaceChildren(...parts.flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
}

// No line of the command ends behind a hyphen.
for (const command of document.querySelectorAll("pre code")) {
  const words = command.textContent.split(/(?<= )/).map((word) => {
    const span = document.createElement("span");
    span.append(word);
    return span;
  });
  command.replaceChildren(...words);
}

// A name that is cut in the middle is copied whole.
document.addEventListener("copy", (event) => {
  const { anchorNode, focusNode } = getSelection();
  const name = anchorNode && anchorNode.parentElement && anchorNode.parentElement.closest("code[title]");
  if (!name || !name.contains(focusNode)) return;
  event.clipboardData.setData("text/plain", name.title);
  event.preventDefault();
});

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
