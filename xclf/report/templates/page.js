"use strict";
// Tables that sort and search, and the command to copy. Without scripts all of the page can be read.
(() => {
  const status = document.getElementById("status");
  const say = (text) => { status.textContent = text; };

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const textOrder = new Intl.Collator(undefined, { numeric: true });

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const sign = direction === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows, (row) => ({
      row, key: keyOf(row, column), text: row.cells[column].textContent,
    }));
    const numeric = rows.some((each) => each.key !== null);
    rows.sort((a, b) => {
      if (!numeric) return sign * textOrder.compare(a.text, b.text);
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return sign * (a.key - b.key);
    });
    body.append(...rows.map((each) => each.row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const name = head.textContent;
      const numeric = head.classList.contains("number");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const first = numeric ? "descending" : "ascending";
        const other = numeric ? "ascending" : "descending";
        const direction = before === first ? other : first;
        heads.forEach((each) => each.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", direction);
        sort(table, column, direction);
        say(`sorted by ${name}, ${direction}`);
      });
    });
  }

  for (const search of document.querySelectorAll(".search")) {
    const input = search.querySelector("input");
    const output = search.querySelector("output");
    const rows = Array.from(search.parentElement.querySelectorAll("tbody tr"));
    const names = new Map(rows.map((row) => [row, row.cells[0].textContent.toLowerCase()]));
    search.hidden = false;
    const filter = () => {
      const wanted = input.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        row.hidden = !names.get(row).includes(wanted);
        shown += !row.hidden;
      }
      const all = rows.length.toLocaleString("en");
      output.textContent = wanted
        ? `${shown.toLocaleString("en")} of ${all} ${output.dataset.noun}`
        : `${all} ${output.dataset.noun}`;
    };
    input.addEventListener("input", filter);
    filter();
  }

  for (const button of document.querySelectorAll(".copy")) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.firstChild.data = "Copied";
        say("command copied");
      } catch {
        // Where a page may not write to the clipboard, the text is selected for the reader to copy.
        window.getSelection().selectAllChildren(code);
        say("command selected");
      }
    });
  }
})();
