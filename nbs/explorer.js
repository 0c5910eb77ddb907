// Every table of class `explorer` is sorted by a click on a heading and filtered by the
// lists above it; a row that is chosen shows its pictures at the side. Without this
// script the table stands as it is, with its pictures in it.
for (const box of document.querySelectorAll(".explorer")) {
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const bar = document.createElement("div");
  const side = document.createElement("figure");
  const count = document.createElement("span");
  bar.className = "explorer-bar";
  side.className = "explorer-side";
  side.setAttribute("aria-live", "polite");
  const value = (row, k) => row.cells[k].dataset.value ?? row.cells[k].textContent;

  // filters: a list for each column that has few values
  const lists = heads.flatMap((head, k) => {
    if (head.dataset.filter === undefined) return [];
    const list = document.createElement("select");
    list.setAttribute("aria-label", head.textContent);
    list.add(new Option(`${head.textContent}: all`, ""));
    for (const v of [...new Set(rows.map((r) => value(r, k)))]) list.add(new Option(v, v));
    list.onchange = filter;
    bar.append(list);
    return [[k, list]];
  });
  bar.append(count);

  function filter() {
    for (const row of rows)
      row.hidden = lists.some(([k, list]) => list.value && value(row, k) !== list.value);
    const left = rows.filter((r) => !r.hidden);
    count.textContent = `${left.length} of ${rows.length} rows`;
    if (left.length && (!chosen || chosen.hidden)) choose(left.find((r) => r.dataset.grid));
  }

  // sorting: numbers by size, words by letters; what was not measured comes last
  function sort(k, up) {
    const key = (row) => {
      const v = value(row, k);
      return v === "" ? null : isNaN(v) ? v : Number(v);
    };
    const before = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(b));
    rows.sort((r, s) => {
      const [a, b] = [key(r), key(s)];
      if (a === null || b === null) return (a === null) - (b === null);
      return up ? before(a, b) : before(b, a);
    });
    body.append(...rows);
    heads.forEach((h, j) => h.setAttribute("aria-sort", j !== k ? "none" : up ? "ascending" : "descending"));
  }
  heads.forEach((head, k) => {
    if (head.dataset.plain !== undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.onclick = () => sort(k, head.getAttribute("aria-sort") !== "ascending");
    head.append(button);
  });

  // the chosen row and its pictures
  let chosen = null;
  function choose(row) {
    if (!row) return;
    chosen?.removeAttribute("aria-selected");
    chosen = row;
    row.setAttribute("aria-selected", "true");
    side.replaceChildren();
    if (!row.dataset.grid) return side.append("no pictures of this row");
    const picture = new Image();
    picture.src = row.dataset.grid;
    picture.alt = row.dataset.said;
    const words = document.createElement("figcaption");
    words.textContent = row.dataset.said;
    side.append(picture, words);
  }
  for (const row of rows) {
    row.tabIndex = 0;
    row.onclick = () => choose(row);
    row.onkeydown = (e) => {
      if (e.key === "Enter" || e.key === " ") choose(row), e.preventDefault();
      const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[e.key];
      if (!next) return;
      let other = row[next];
      while (other?.hidden) other = other[next];
      if (other) other.focus(), choose(other), e.preventDefault();
    };
  }
  box.classList.add("explorer-live");
  box.prepend(bar, side);
  filter();
}
