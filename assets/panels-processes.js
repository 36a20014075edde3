// The table of processes. Rows are kept by pid: a tick only changes texts, so nothing flickers.
(function () {
  "use strict";

  const { painters, parts, units } = window.dashtop;
  const PAGE_SIZE = 10;
  const TYPES = { C: "Compute", G: "Graphics", M: "MPS client" };
  const UNKNOWN = "N/A";
  const NONE = "‒";
  const NAME = "name"; // the column that is the header of a row

  const rows = new Map(); // pid -> <tr>
  const sorting = { column: "gpu_memory_mib", descending: true };
  let filter = "";
  let pageCount = 1;
  let snapshot = null;

  // --- columns ------------------------------------------------------------------------------------------------

  const FORMATS = {
    text: (value) => String(value),
    size: (mib) => units.formatSize(mib),
    percent: (value) => `${Math.round(value)} %`,
    elapsed: formatDuration,
  };

  function formatDuration(ms) {
    const seconds = Math.max(0, Math.floor(ms / 1000));
    const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min` : `${seconds} s`;
  }

  // The columns as the header defines them (app/dashtop/ui/panels/processes.py): [{ key, format, isNumeric }, …].
  function findColumns(table) {
    return [...table.querySelectorAll("[data-column]")].map(({ dataset }) => ({
      key: dataset.column,
      format: dataset.cellFormat,
      isNumeric: dataset.cellFormat !== "text",
    }));
  }

  function formatCell(column, process) {
    const value = process[column.key];
    if (value === "") return NONE;
    if (value !== null) return FORMATS[column.format](value);
    return process.foreign && column.key !== "gpu_memory_mib" && column.key !== "sm_percent" ? NONE : UNKNOWN;
  }

  // --- rows ---------------------------------------------------------------------------------------------------

  // Joins the static facts and the current load of each process. Start times become durations.
  function listProcesses(columns) {
    const starts = columns.filter((column) => column.format === "elapsed");
    return snapshot.processes.map((facts, index) => {
      const process = { ...facts, ...snapshot.process_loads[index] };
      for (const { key } of starts) process[key] = process[key] === null ? null : snapshot.time - process[key];
      return process;
    });
  }

  function compareProcesses(one, other) {
    const [a, b] = [one[sorting.column], other[sorting.column]];
    const [hasNoA, hasNoB] = [a === null || a === "", b === null || b === ""];
    // Unknown values are last in both directions.
    if (hasNoA || hasNoB) return hasNoA - hasNoB || one.pid - other.pid;
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return (sorting.descending ? -order : order) || one.pid - other.pid;
  }

  function buildRow(columns, pid) {
    const row = document.createElement("tr");
    for (const { key, isNumeric } of columns) {
      const cell = parts.make(key === NAME ? "th" : "td", isNumeric ? "numeric" : "", row);
      cell.dataset.cell = key;
      if (key !== NAME) continue;
      cell.scope = "row";
      parts.make("span", "process-name", cell);
      parts.make("span", "process-type", cell);
    }
    row.dataset.pid = String(pid);
    return row;
  }

  function paintRow(row, columns, process) {
    row.classList.toggle("foreign", process.foreign);
    columns.forEach((column, position) => {
      const cell = column.key === NAME ? row.children[position].firstElementChild : row.children[position];
      const text = formatCell(column, process);
      parts.write(cell, text);
      cell.classList.toggle("unknown", text === UNKNOWN || text === NONE);
      if (!column.isNumeric && cell.title !== text) cell.title = text;
    });
    const type = row.querySelector(".process-type");
    parts.write(type, process.type);
    const meaning = process.type.split("+").map((letter) => TYPES[letter] || letter).join(", ");
    if (type.title !== meaning) type.title = meaning;
  }

  function paintRows(body, columns, processes) {
    const pids = new Set(processes.map(({ pid }) => pid));
    for (const [pid, row] of rows) {
      if (pids.has(pid)) continue;
      row.remove();
      rows.delete(pid);
    }
    processes.forEach((process, position) => {
      if (!rows.has(process.pid)) rows.set(process.pid, buildRow(columns, process.pid));
      const row = rows.get(process.pid);
      paintRow(row, columns, process);
      if (body.children[position] !== row) body.insertBefore(row, body.children[position] || null);
    });
  }

  // --- the whole panel ----------------------------------------------------------------------------------------

  // "3 processes: 20.1 GiB of 21.0 GiB used, 0.9 GiB not attributed to a process"
  function describeTotals({ count, gpu_memory_gib: sum, unknown_count: unknown, used_gib: used }) {
    const format = (gib) => units.format(gib, "GiB");
    if (count === 0) return used ? `${format(used)} used, not attributed to a process` : "";
    const total = used === null ? "" : ` of ${format(used)} used`;
    const texts = [`${count} ${count === 1 ? "process" : "processes"}: ${format(sum)}${total}`];
    if (used !== null && used - sum >= 0.05) texts.push(`${format(used - sum)} not attributed to a process`);
    if (unknown) texts.push(`${unknown} of unknown size`);
    return texts.join(", ");
  }

  function markSorting(panel) {
    for (const button of panel.querySelectorAll("[data-column]")) {
      const direction = sorting.descending ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", button.dataset.column === sorting.column ? direction : "none");
    }
  }

  function paint() {
    const body = document.querySelector("[data-processes]");
    if (!body || !snapshot || !snapshot.processes || !snapshot.process_loads) return;
    const panel = body.closest(".panel");
    const columns = findColumns(panel);
    const textColumns = columns.filter((column) => !column.isNumeric);
    const wanted = filter.toLowerCase();
    const matches = (process) => textColumns.some((column) => formatCell(column, process).toLowerCase().includes(wanted));
    const found = listProcesses(columns).filter(matches).sort(compareProcesses);
    const visible = found.slice(0, pageCount * PAGE_SIZE);
    const [totals] = snapshot.process_totals;
    paintRows(body, columns, visible);
    const emptyText = totals.count === 0 ? snapshot.texts["processes.empty"] : "No matching processes.";
    parts.write(panel.querySelector("[data-empty]"), found.length ? "" : emptyText);
    body.closest("table").hidden = totals.count === 0;
    parts.write(panel.querySelector("[data-summary]"), describeTotals(totals));
    const more = panel.querySelector(".more-rows");
    more.hidden = visible.length === found.length;
    parts.write(more, `Show more (${found.length - visible.length})`);
    markSorting(panel);
  }

  document.addEventListener("click", (event) => {
    const header = event.target.closest("[data-column]");
    if (header) {
      const column = header.dataset.column;
      const descending = sorting.column === column ? !sorting.descending : header.dataset.cellFormat !== "text";
      Object.assign(sorting, { column, descending });
      paint();
    } else if (event.target.closest(".more-rows")) {
      pageCount += 1;
      paint();
    }
  });

  document.addEventListener("input", (event) => {
    if (event.target.id !== "process-filter") return;
    filter = event.target.value.trim();
    pageCount = 1;
    paint();
  });

  painters.push((newest) => {
    snapshot = newest;
    paint();
  });
})();
