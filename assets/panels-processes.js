// The tables of processes: on the chosen GPU, on all GPUs, and those that have ended. Rows are kept by their key: a tick
// only changes texts, so nothing flickers. Their tools are in assets/process-tools.js.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, processTools, settings, times, units } = dashtop;
  const PAGE_SIZES = { processes: 10, all_processes: 50, ended_processes: 20 };
  const TYPES = { C: "Compute", G: "Graphics", M: "MPS client" };
  const UNKNOWN = "N/A";
  const NONE = "‒";
  const NAME = "name"; // the column that is the header of a row
  const GPUS = "gpus"; // the column whose cells unfold
  const NO_NUMBER = ["text", "gpus"]; // formats
  // What a process of another PID namespace lacks for that reason; the driver reports the rest.
  const OF_THE_DRIVER = ["gpus", "gpu_memory_mib", "sm_percent", "peak_mib", "duration_ms", "ended_ms"];

  // By part of the snapshot: rows by key, and what the user has unfolded.
  const newState = () => ({ rows: new Map(), pageCount: 1, unfolded: new Set(), folded: new Set(), sort: "-ended_ms" });
  const states = Object.fromEntries(Object.keys(PAGE_SIZES).map((source) => [source, newState()]));
  // What changes with every sample comes while the table is visible: after a change of the page one tick later.
  const LOADS = { processes: "process_loads", all_processes: "all_process_loads" };
  const TOTALS = { processes: "process_totals", all_processes: "all_process_totals" };
  let snapshot = null;

  // --- columns ------------------------------------------------------------------------------------------------

  const FORMATS = {
    text: (value) => String(value),
    size: (mib) => units.formatSize(mib),
    percent: (value) => `${Math.round(value)} %`,
    elapsed: formatDuration,
    duration: formatDuration,
    moment: (ms) => times.moment(ms),
    gpus: formatGpus,
  };

  function formatDuration(ms) {
    const seconds = Math.max(0, Math.floor(ms / 1000));
    const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min` : `${seconds} s`;
  }

  // "0–3, 6", "2, GPU 7 (gone)"
  function formatGpus(indexes, { gone_gpus: gone = [] } = {}) {
    const runs = [];
    for (const index of indexes) {
      const last = runs.at(-1);
      if (last && index === last[1] + 1) last[1] = index;
      else runs.push([index, index]);
    }
    const present = runs.map(([first, last]) => (first === last ? first : `${first}${last === first + 1 ? ", " : "–"}${last}`));
    return [...present, ...gone.map((label) => `${label} (gone)`)].join(", ");
  }

  // The columns as the header defines them (app/dashtop/ui/panels/processes.py): [{ key, format, isNumeric }, …].
  function findColumns(table) {
    return [...table.querySelectorAll("[data-column]")].map(({ dataset }) => ({
      key: dataset.column,
      format: dataset.cellFormat,
      isNumeric: !NO_NUMBER.includes(dataset.cellFormat),
    }));
  }

  function formatCell(column, process) {
    const value = process[column.key];
    if (value === "") return NONE;
    if (value !== null && value !== undefined) return FORMATS[column.format](value, process);
    if (!process.foreign || OF_THE_DRIVER.includes(column.key)) return UNKNOWN;
    return column.key === NAME ? "Other PID namespace" : NONE;
  }

  // --- processes ----------------------------------------------------------------------------------------------

  // Joins the static facts and the current load of each process. Start times become durations.
  function listProcesses(source, columns) {
    if (source === "ended_processes") return snapshot.ended_processes.rows;
    const starts = columns.filter((column) => column.format === "elapsed");
    const loads = snapshot[LOADS[source]];
    return snapshot[source].map((facts, index) => {
      const process = { ...facts, ...loads[index] };
      for (const { key } of starts) process[key] = process[key] === null ? null : snapshot.time - process[key];
      return process;
    });
  }

  const isMissing = (value) => value === null || value === undefined || value === "" || value.length === 0;

  function compareValues(a, b, descending) {
    const [hasNoA, hasNoB] = [isMissing(a), isMissing(b)];
    // Unknown values are last in both directions.
    if (hasNoA || hasNoB) return hasNoA - hasNoB;
    if (Array.isArray(a)) return compareValues(a[0], b[0], descending) || (descending ? b.length - a.length : a.length - b.length);
    const order = typeof a === "number" ? a - b : a.localeCompare(b);
    return descending ? -order : order;
  }

  function sortingOf(source) {
    const sort = source === "ended_processes" ? states[source].sort : settings.get("process_sort");
    const column = sort.replace("-", "");
    return { column, descending: column !== sort };
  }

  function sortProcesses(processes, { column, descending }) {
    return processes.sort((one, other) => compareValues(one[column], other[column], descending) || one.pid - other.pid);
  }

  function addUp(processes, key) {
    const known = processes.map((process) => process[key]).filter((value) => !isMissing(value));
    return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
  }

  // --- groups -------------------------------------------------------------------------------------------------

  // The share of a process on one of its GPUs: what it uses there.
  function shareOf(process, position) {
    if (!process.shares) return process;
    const [memory, sm] = process.shares[position];
    return { ...process, gpu_memory_mib: memory, sm_percent: sm };
  }

  function listMembers(process, grouping) {
    if (grouping === "user") return [[process.user || "Unknown user", process]];
    if (grouping === "job") return [[process.context || "No container or job", process]];
    return process.gpus.map((index, position) => [index, { ...shareOf(process, position), only: index }]);
  }

  function nameGroup(group, grouping) {
    if (grouping !== "gpu") return group;
    const device = snapshot.devices.find(({ index }) => index === group);
    return device ? `GPU ${group} · ${device.name}` : `GPU ${group}`;
  }

  // Returns [{ name, processes, sums }, …] in the order of the sums, or of the GPUs.
  function groupProcesses(processes, grouping, sorting) {
    const groups = new Map();
    for (const process of processes) {
      for (const [group, member] of listMembers(process, grouping)) {
        if (!groups.has(group)) groups.set(group, []);
        groups.get(group).push(member);
      }
    }
    const found = [...groups].map(([group, members]) => ({
      group,
      name: nameGroup(group, grouping),
      processes: sortProcesses(members, sorting),
      sums: {
        gpus: grouping === "gpu" ? [] : [...new Set(members.flatMap(({ gpus }) => gpus))].sort((a, b) => a - b),
        gpu_memory_mib: addUp(members, "gpu_memory_mib"),
        sm_percent: addUp(members, "sm_percent"),
      },
    }));
    if (grouping === "gpu") return found.sort((one, other) => one.group - other.group);
    return found.sort((one, other) => compareGroups(one, other, sorting) || one.name.localeCompare(other.name));
  }

  // By what the rows are sorted by, if groups have it; else by memory.
  function compareGroups(one, other, { column, descending }) {
    if (column in one.sums) return compareValues(one.sums[column], other.sums[column], descending);
    if (column === settings.get("process_group")) return compareValues(one.name, other.name, descending);
    return compareValues(one.sums.gpu_memory_mib, other.sums.gpu_memory_mib, true);
  }

  // --- rows ---------------------------------------------------------------------------------------------------

  // Returns the rows to show: [{ key, kind, … }], with at most as many processes as the user has asked for.
  function listRows(source, processes, sorting) {
    const state = states[source];
    let left = state.pageCount * PAGE_SIZES[source];
    const rows = [];
    const addProcess = (process, prefix) => {
      if (left-- <= 0) return;
      const key = `${prefix}${process.pid}${source === "ended_processes" ? ` ${process.ended_ms}` : ""}`;
      rows.push({ key, kind: "process", process });
      if (!process.shares || process.only !== undefined || !state.unfolded.has(String(process.pid))) return;
      process.gpus.forEach((index, position) => rows.push({ key: `share ${key} ${index}`, kind: "share", index, process: shareOf(process, position) }));
    };
    if (source !== "all_processes") {
      sortProcesses(processes, sorting).forEach((process) => addProcess(process, ""));
      return { rows, hidden: Math.max(0, -left) };
    }
    const grouping = settings.get("process_group");
    let hidden = 0;
    for (const group of groupProcesses(processes, grouping, sorting)) {
      const folded = state.folded.has(`${grouping} ${group.group}`);
      rows.push({ key: `group ${grouping} ${group.group}`, kind: "group", group, folded });
      if (folded) continue;
      hidden += Math.max(0, group.processes.length - Math.max(left, 0));
      group.processes.forEach((process) => addProcess(process, process.only === undefined ? "" : `${process.only}:`));
    }
    return { rows, hidden };
  }

  function addToggle(cell, className) {
    const button = parts.make("button", className, cell);
    button.type = "button";
    return button;
  }

  function buildCell(row, { key, isNumeric }) {
    const cell = parts.make(key === NAME ? "th" : "td", isNumeric ? "numeric" : "", row);
    cell.dataset.cell = key;
    cell.setAttribute("role", key === NAME ? "rowheader" : "cell");
    if (key === NAME) cell.scope = "row";
    return cell;
  }

  const BUILDERS = {
    process(row, columns) {
      for (const column of columns) {
        const cell = buildCell(row, column);
        if (column.key === GPUS) addToggle(cell, "shares-button");
        if (column.key !== NAME) continue;
        for (const name of ["process-name", "process-type", "idle-mark"]) parts.make("span", name, cell);
        addToggle(cell, "process-menu");
      }
    },
    group(row, columns) {
      const cell = buildCell(row, { key: NAME });
      cell.colSpan = 2;
      addToggle(cell, "group-button");
      parts.make("span", "group-count", cell);
      for (const column of columns.filter(({ key }) => key !== NAME && key !== "user")) buildCell(row, column);
    },
    share(row, columns) {
      columns.forEach((column) => buildCell(row, column));
    },
  };

  function buildRow(kind, columns) {
    const row = document.createElement("tr");
    row.className = `${kind}-row`;
    row.setAttribute("role", "row");
    BUILDERS[kind](row, columns);
    return row;
  }

  const cellOf = (row, key) => row.querySelector(`[data-cell="${key}"]`);

  // `tip`: the whole of a text that may be truncated, or what explains it.
  function writeCell(cell, text, tip = "") {
    parts.write(cell, text);
    cell.classList.toggle("unknown", text === UNKNOWN || text === NONE);
    parts.mark(cell, "tip", text === UNKNOWN && snapshot.is_past ? "Not recorded at that time" : tip);
  }

  function describeState({ paused, service, idle_minutes: minutes }) {
    if (paused) return ["paused", "Stopped by SIGSTOP: it keeps its GPU memory and computes nothing until it is resumed"];
    if (service) return ["service", "May hold GPU memory without computing"];
    return minutes ? [`idle ${formatDuration(minutes * 60_000)}`, "Holds GPU memory, 0 % SM utilization"] : ["", ""];
  }

  function paintName(cell, process) {
    const [, type, idle, menu] = cell.children;
    parts.write(type, process.type);
    parts.mark(type, "tip", process.type.split("+").map((letter) => TYPES[letter] || letter).join(", "));
    const [state, tip] = describeState(process);
    parts.write(idle, state);
    parts.mark(idle, "tip", tip);
    if (!menu) return; // a process that has ended
    menu.hidden = snapshot.is_past;
    menu.dataset.watchPid = String(process.pid);
    menu.setAttribute("aria-haspopup", dashtop.processActions.isEnabled() ? "menu" : "dialog");
    menu.setAttribute("aria-label", `Actions for ${process.name || "process"}, PID ${process.pid}`);
  }

  function paintUnfoldButton(cell, process) {
    const button = cell.firstElementChild;
    const unfolds = Boolean(process.shares) && process.only === undefined;
    button.disabled = !unfolds;
    if (!unfolds) button.removeAttribute("aria-expanded");
    else button.setAttribute("aria-expanded", String(states.all_processes.unfolded.has(String(process.pid))));
    button.dataset.unfold = String(process.pid);
    return button;
  }

  const PAINTERS = {
    process(row, { process }, columns) {
      row.dataset.pid = String(process.pid);
      row.classList.toggle("foreign", process.foreign);
      for (const column of columns) {
        const cell = cellOf(row, column.key);
        const text = formatCell(column, process);
        const isUnnamed = column.key === NAME && process.unnamed !== "";
        if (column.key === NAME) {
          writeCell(cell.firstElementChild, text, process.unnamed || text);
          cell.firstElementChild.classList.toggle("unknown", isUnnamed);
        } else if (column.key === GPUS) {
          const button = cell.firstElementChild ? paintUnfoldButton(cell, process) : cell;
          parts.write(button, text);
          parts.mark(cell, "tip", text);
        } else writeCell(cell, text, column.isNumeric ? "" : text);
        if (column.key === NAME) paintName(cell, process);
      }
    },
    group(row, { group, folded }, columns) {
      const name = cellOf(row, NAME);
      const [button, count] = name.children;
      parts.write(button, group.name);
      parts.mark(button, "tip", group.name);
      button.dataset.fold = row.dataset.key.slice("group ".length);
      button.setAttribute("aria-expanded", String(!folded));
      const length = group.processes.length;
      parts.write(count, `${length} ${length === 1 ? "process" : "processes"}`);
      for (const column of columns) {
        if (!(column.key in group.sums)) continue;
        const value = group.sums[column.key];
        writeCell(cellOf(row, column.key), value === null ? UNKNOWN : FORMATS[column.format](value));
      }
    },
    share(row, { index, process }, columns) {
      for (const column of columns) {
        if (column.key === GPUS) parts.write(cellOf(row, GPUS), `GPU ${index}`);
        else if (["gpu_memory_mib", "sm_percent"].includes(column.key)) writeCell(cellOf(row, column.key), formatCell(column, process));
      }
    },
  };

  function paintRows(body, state, columns, wanted) {
    const keys = new Set(wanted.map(({ key }) => key));
    for (const [key, row] of state.rows) {
      if (keys.has(key)) continue;
      row.remove();
      state.rows.delete(key);
    }
    wanted.forEach((item, position) => {
      if (!state.rows.has(item.key)) state.rows.set(item.key, buildRow(item.kind, columns));
      const row = state.rows.get(item.key);
      row.dataset.key = item.key;
      PAINTERS[item.kind](row, item, columns);
      if (body.children[position] !== row) body.insertBefore(row, body.children[position] || null);
    });
  }

  // --- a whole table ------------------------------------------------------------------------------------------

  const count = (number) => `${number} ${number === 1 ? "process" : "processes"}`;
  const formatGib = (gib) => units.format(gib, "GiB");

  // "3 processes: 20.1 GiB of 21.0 GiB used, 0.9 GiB not attributed to a process"
  function describeTotals(totals, sent) {
    const { count: number, gpu_memory_gib: sum, unknown_count: unknown, used_gib: used } = totals;
    if (number === 0) return used ? `${formatGib(used)} used, not attributed to a process` : "";
    const total = used === null ? "" : ` of ${formatGib(used)} used`;
    const texts = [`${count(number)}: ${formatGib(sum)}${total}`];
    if (used !== null && used - sum >= 0.05) texts.push(`${formatGib(used - sum)} not attributed to a process`);
    if (unknown) texts.push(`${unknown} of unknown size`);
    if (sent < number) texts.push(`the ${sent} largest are listed`);
    return texts.join(", ");
  }

  // "2 of 24 processes: 3.5 GiB"
  function describeFound(found, total, sizeKey) {
    const sum = addUp(found, sizeKey);
    return `${found.length} of ${count(total)}${sum === null ? "" : `: ${formatGib(sum / 1024)}`}`;
  }

  function describeEnded(found, total) {
    const listed = snapshot.ended_processes.rows.length;
    if (found.length < listed) return `${found.length} of ${count(listed)}`;
    return listed < total ? `${count(total)}, the newest ${listed} are listed` : count(total);
  }

  function markSorting(table, { column, descending }) {
    for (const button of table.querySelectorAll("[data-column]")) {
      const direction = descending ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", button.dataset.column === column ? direction : "none");
    }
  }

  function totalOf(source) {
    if (source === "ended_processes") return snapshot.ended_processes.count;
    return snapshot[TOTALS[source]][0].count;
  }

  function describe(source, found, all) {
    const total = totalOf(source);
    if (source === "ended_processes") return describeEnded(found, total);
    if (processTools.isFiltered()) return total ? describeFound(found, total, "gpu_memory_mib") : "";
    return describeTotals(snapshot[TOTALS[source]][0], all.length);
  }

  function describeEmpty(source, view) {
    if (totalOf(source)) return processTools.isNameMissing() ? "Enter your user name to see your processes." : "No matching processes.";
    return source === "ended_processes" ? "No process ended in this time." : snapshot.texts[view.querySelector("[data-empty]").dataset.empty];
  }

  function paintTable(table) {
    const { source } = table.dataset;
    const isComplete = snapshot[source] && (!TOTALS[source] || snapshot[TOTALS[source]]);
    if (!isComplete || !dashtop.viewRequest.isShown(table.closest(".panel"))) return;
    const view = table.closest("[data-process-view]") || table.closest(".panel");
    const columns = findColumns(table);
    const sorting = sortingOf(source);
    const textColumns = columns.filter((column) => !column.isNumeric);
    const all = listProcesses(source, columns);
    const matches = processTools.matcher((process) => textColumns.map((column) => formatCell(column, process)), source !== "ended_processes");
    const found = all.filter(matches);
    const { rows, hidden } = listRows(source, found, sorting);
    paintRows(table.tBodies[0], states[source], columns, rows);
    parts.write(view.querySelector("[data-empty]"), found.length ? "" : describeEmpty(source, view));
    table.hidden = found.length === 0;
    parts.write(view.querySelector("[data-summary]"), describe(source, found, all));
    const more = view.querySelector(".more-rows");
    more.hidden = hidden === 0;
    parts.write(more, `Show more (${hidden})`);
    if (source === "ended_processes") parts.write(view.parentElement.querySelector("[data-ended-count]"), String(totalOf(source)));
    markSorting(table, sorting);
  }

  function paint() {
    if (snapshot === null) return;
    processTools.paint();
    document.querySelectorAll("table[data-source]").forEach(paintTable);
  }

  // --- for the menu of a process ------------------------------------------------------------------------------

  // The process as a table shows it, with the UUID of a GPU that it uses; null if it has ended.
  function findProcess(source, pid) {
    const index = snapshot[source].findIndex((each) => each.pid === pid);
    if (index < 0) return null;
    const process = { ...snapshot[source][index], ...snapshot[LOADS[source]][index] };
    const gpu = snapshot.devices.find((each) => each.index === (process.gpus ? process.gpus[0] : snapshot.gpu));
    return gpu ? { ...process, gpu_uuid: gpu.uuid } : null;
  }

  const describeProcess = ({ gpu_memory_mib: mib, started_ms: started }) => ({
    memory: mib === null ? UNKNOWN : units.formatSize(mib),
    age: started === null ? UNKNOWN : formatDuration(snapshot.time - started),
  });

  dashtop.processTable = { find: findProcess, describe: describeProcess };

  // --- clicks -------------------------------------------------------------------------------------------------

  function flip(set, key) {
    if (!set.delete(key)) set.add(key);
    paint();
  }

  function sortBy(header, source) {
    const { column, descending } = sortingOf(source);
    const key = header.dataset.column;
    const isDown = column === key ? !descending : !NO_NUMBER.includes(header.dataset.cellFormat);
    const sort = `${isDown ? "-" : ""}${key}`;
    if (source === "ended_processes") states[source].sort = sort;
    else settings.set({ process_sort: sort });
    paint();
  }

  document.addEventListener("click", (event) => {
    const table = event.target.closest("table[data-source]");
    const header = event.target.closest("[data-column]");
    if (table && header) sortBy(header, table.dataset.source);
    const { fold, unfold } = event.target.dataset;
    if (table && fold) flip(states.all_processes.folded, fold);
    if (table && unfold) flip(states.all_processes.unfolded, unfold);
    const more = event.target.closest(".more-rows");
    if (!more) return;
    const view = more.closest("[data-process-view]") || more.closest(".panel");
    const { source } = view.querySelector("table[data-source]").dataset;
    states[source].pageCount += 1;
    paint();
  });

  settings.onChange((names) => {
    if (names.includes("process_search") || names.includes("process_only")) for (const state of Object.values(states)) state.pageCount = 1;
    if (names.some((name) => name === "me" || name.startsWith("process_"))) paint();
  });

  painters.push((newest) => {
    snapshot = newest;
    paint();
  });
})();
