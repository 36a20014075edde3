// The table of processes: rows are kept by pid, so that a tick changes texts and nothing flickers.
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const PAGE = 10;
  const KINDS = { C: "Compute", G: "Graphics", M: "MPS client" };
  // In the order of the columns (panels/processes.py).
  const NUMERIC = [false, false, false, false, true, true, true, true, true];

  const rows = new Map(); // pid -> <tr>
  const sorting = { column: 4, descending: true };
  let filter = "";
  let pages = 1;
  let frame = null;

  function size(mib) {
    return mib === null ? "N/A" : window.dashtop.units.size(mib);
  }

  function duration(ms) {
    if (ms === null) return "N/A";
    const seconds = Math.max(0, Math.floor(ms / 1000));
    const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min` : `${seconds} s`;
  }

  const percent = (value) => (value === null ? "N/A" : `${Math.round(value)} %`);

  // One process as the nine values that its row is sorted by.
  function process([pid, kind, name, user, where, started, foreign], [memory, sm, cpu, ram]) {
    const running = started === null ? null : frame.time - started;
    return { pid, kind, foreign, values: [pid, name, user, where, memory, sm, cpu, ram, running] };
  }

  function words({ foreign, values: [pid, name, user, where, memory, sm, cpu, ram, running] }) {
    const none = foreign ? "‒" : "N/A";
    const told = (value, text) => (value === null && foreign ? none : text);
    return [String(pid), name ?? none, user ?? none, where || "‒", size(memory), percent(sm),
      told(cpu, percent(cpu)), told(ram, size(ram)), told(running, duration(running))];
  }

  function compare(one, other) {
    const [a, b] = [one.values[sorting.column], other.values[sorting.column]];
    // What is not told stands last, whichever way the column is sorted.
    if (a === null || a === "" || b === null || b === "") return (a === null || a === "") - (b === null || b === "") || one.pid - other.pid;
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return (sorting.descending ? -order : order) || one.pid - other.pid;
  }

  function build(pid) {
    const row = document.createElement("tr");
    NUMERIC.forEach((numeric, column) => {
      const cell = parts.make(column === 1 ? "th" : "td", numeric ? "numeric" : "", row);
      if (column === 1) {
        cell.scope = "row";
        parts.make("span", "process-name", cell);
        parts.make("span", "kind", cell);
      }
    });
    row.dataset.pid = String(pid);
    return row;
  }

  function paintRow(row, found) {
    row.classList.toggle("foreign", found.foreign);
    words(found).forEach((text, column) => {
      const cell = column === 1 ? row.children[1].firstElementChild : row.children[column];
      parts.write(cell, text);
      cell.classList.toggle("unknown", text === "N/A" || text === "‒");
      if (!NUMERIC[column] && cell.title !== text) cell.title = text;
    });
    const kind = row.children[1].lastElementChild;
    parts.write(kind, found.kind);
    const meaning = found.kind.split("+").map((letter) => KINDS[letter] || letter).join(", ");
    if (kind.title !== meaning) kind.title = meaning;
  }

  function place(body, list) {
    const pids = new Set(list.map((each) => each.pid));
    for (const [pid, row] of rows) {
      if (pids.has(pid)) continue;
      row.remove();
      rows.delete(pid);
    }
    list.forEach((each, position) => {
      if (!rows.has(each.pid)) rows.set(each.pid, build(each.pid));
      const row = rows.get(each.pid);
      paintRow(row, each);
      if (body.children[position] !== row) body.insertBefore(row, body.children[position] || null);
    });
  }

  function totals() {
    const [sum, silent, used, count] = frame.totals;
    const memory = (gib) => window.dashtop.units.text(gib, "GiB");
    if (count === 0) return used ? `${memory(used)} used, not attributed to a process` : "";
    const all = `${count} ${count === 1 ? "process" : "processes"}: ${memory(sum)}`;
    const of = used === null ? "" : ` of ${memory(used)} used`;
    const rest = used !== null && used - sum >= 0.05 ? `; ${memory(used - sum)} not attributed to a process` : "";
    return `${all}${of}${rest}${silent ? `; ${silent} of unknown size` : ""}`;
  }

  function show() {
    const body = document.querySelector("[data-processes]");
    if (!body || !frame || !frame.processes || !frame.loads) return;
    const all = frame.processes.map((facts, index) => process(facts, frame.loads[index]));
    const wanted = filter.toLowerCase();
    const found = all.filter((each) => words(each).slice(0, 4).some((text) => text.toLowerCase().includes(wanted)));
    const shown = found.sort(compare).slice(0, pages * PAGE);
    place(body, shown);
    const panel = body.closest(".panel");
    const none = frame.totals[3] === 0 ? frame.words["processes.none"] : "No matching processes.";
    parts.write(panel.querySelector("[data-none]"), found.length ? "" : none);
    body.closest("table").hidden = frame.totals[3] === 0;
    parts.write(panel.querySelector("[data-sum]"), totals());
    const button = panel.querySelector(".more-rows");
    button.hidden = shown.length === found.length;
    parts.write(button, `Show more (${found.length - shown.length})`);
    for (const head of panel.querySelectorAll("[data-sort]")) {
      const chosen = Number(head.dataset.sort) === sorting.column;
      const direction = sorting.descending ? "descending" : "ascending";
      head.parentElement.setAttribute("aria-sort", chosen ? direction : "none");
    }
  }

  document.addEventListener("click", (event) => {
    const head = event.target.closest("[data-sort]");
    if (head) {
      const column = Number(head.dataset.sort);
      const descending = sorting.column === column ? !sorting.descending : NUMERIC[column];
      Object.assign(sorting, { column, descending });
      show();
    } else if (event.target.closest(".more-rows")) {
      pages += 1;
      show();
    }
  });

  document.addEventListener("input", (event) => {
    if (event.target.id !== "process-filter") return;
    filter = event.target.value.trim();
    pages = 1;
    show();
  });

  painters.push((newest) => {
    frame = newest;
    show();
  });
})();
