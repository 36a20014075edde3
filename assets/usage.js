// The page of usage: totals, the heat map of hours and GPUs, and tables that can be downloaded and printed. Names of users
// are untrusted: they are written as text, and no cell of a CSV file begins with a character that starts a formula.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, timeline, times, units } = dashtop;
  const { make, write } = parts;
  const SVG = "http://www.w3.org/2000/svg";
  const STATES = ["active", "idle", "free", "held", "unknown"];
  const STATE_TEXTS = { active: "active", idle: "held, idle", free: "free", held: "held, utilization not reported", unknown: "not recorded" };
  const LEVELS = 4; // shades of an active cell, by its utilization
  const UNKNOWN = "N/A";

  let drawn = null; // the usage as it was sent
  let drawnZone = "";
  let heat = []; // {element, label, cells}: cells of [active, idle, free, held, load] in percent
  const tables = {}; // the rows that are shown, by table

  // Numbers of a column have equally many digits: those that its largest needs.
  const chooseDigits = (values, most) => (Math.max(0, ...values) < 10 ? most : Math.max(...values) < 1000 ? 1 : 0);
  const format = (value, digits) => (value === null ? UNKNOWN : value.toFixed(digits));
  const formatShare = (share) => `${share < 1 && share > 0.995 ? "> 99" : Math.round(100 * share)} %`;
  const sum = (values) => (values.some((value) => value !== null) ? values.reduce((total, value) => total + (value || 0), 0) : null);

  // --- heat map -----------------------------------------------------------------------------------------------

  function decodeCells(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Array.from({ length: bytes.length / 5 }, (_, at) => [...bytes.slice(5 * at, 5 * at + 5)]);
  }

  const withUnknown = ([active, idle, free, held]) => [active, idle, free, held, Math.max(0, 100 - active - idle - free - held)];

  // The state that a cell was in for most of the time.
  function findState(cell) {
    const shares = withUnknown(cell);
    return STATES[shares.indexOf(Math.max(...shares))];
  }

  // Height and colour say the state: active fills a cell, idle half of it, free is a line; the rest is hatched below.
  function addCells(svg, cells) {
    const paths = {};
    cells.forEach((cell, at) => {
      const state = findState(cell);
      if (state === "unknown") return;
      const level = Math.min(LEVELS, 1 + Math.floor((cell[4] * LEVELS) / 100));
      const [name, height] = { active: [`active heat-${level}`, 10], idle: ["idle", 5], free: ["free", 1.5], held: ["held", 5] }[state];
      paths.ground = `${paths.ground || ""}M${at} 0h1v10h-1z`;
      paths[name] = `${paths[name] || ""}M${at} ${10 - height}h1v${height}h-1z`;
    });
    for (const [name, path] of Object.entries(paths)) {
      const element = document.createElementNS(SVG, "path");
      element.setAttribute("class", name.split(" ").map((each) => (each.startsWith("heat") ? each : `heat-${each}`)).join(" "));
      element.setAttribute("d", path);
      svg.append(element);
    }
  }

  function paintHeat({ start, step, count, rows }) {
    const list = document.querySelector("[data-heat]");
    list.replaceChildren();
    list.hidden = rows.length === 0;
    list.nextElementSibling.hidden = rows.length === 0;
    heat = rows.map(([label, name, text]) => {
      const cells = decodeCells(text);
      const lane = make("div", "lane", list);
      make("span", "lane-label", lane, label).dataset.tip = name;
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("class", "heat-row");
      svg.setAttribute("viewBox", `0 0 ${count} 10`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", describeRow(label, cells));
      addCells(svg, cells);
      lane.append(svg);
      return { element: svg, label, cells };
    });
    const states = new Set(heat.flatMap(({ cells }) => cells.map(findState)));
    for (const key of document.querySelectorAll("[data-heat-key]")) key.hidden = key.dataset.heatKey === "held" && !states.has("held");
    const plot = make("div", "timeline-plot", list);
    plot.ariaHidden = "true";
    if (rows.length) timeline.addTicks(plot, start, start + count * step);
  }

  // "GPU 0: active 50 %, held, idle 20 %, free 30 %"
  function describeShares(cell) {
    const shares = withUnknown(cell);
    return STATES.map((state, at) => (shares[at] > 0 ? `${STATE_TEXTS[state]} ${Math.round(shares[at])} %` : "")).filter(Boolean).join(", ");
  }

  function describeRow(label, cells) {
    const means = [0, 1, 2, 3].map((at) => cells.reduce((total, cell) => total + cell[at], 0) / cells.length);
    return `${label}: ${describeShares(means)}`;
  }

  document.addEventListener("pointermove", (event) => {
    const row = event.target.closest && heat.find(({ element }) => element === event.target.closest(".heat-row"));
    if (!row) return;
    const box = row.element.getBoundingClientRect();
    const at = Math.min(row.cells.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * row.cells.length)));
    const { start, step } = drawn.heat;
    const place = { left: event.clientX, right: event.clientX, bottom: box.bottom };
    const load = row.cells[at][4] > 0 ? `Utilization ${row.cells[at][4]} %` : "";
    timeline.showTip(row.element.closest(".card"), place, [times.span(start + at * step, start + (at + 1) * step), `${row.label}: ${describeShares(row.cells[at])}`, load]);
  });
  document.addEventListener("pointerout", (event) => {
    if (event.target.closest && event.target.closest(".heat-row")) timeline.hideTip();
  });

  // --- tables -------------------------------------------------------------------------------------------------

  // A cell: its text, what a CSV file has in its place, and an explanation.
  const cell = (text, value = text, title = "") => ({ text, value, title });

  const TITLES = { user: "User", container: "Container", slurm_job: "Slurm job", process: "Process" };
  const KINDS = {
    counter: "The driver's energy counter.",
    integrated: "Power × time: the driver reported no value of its energy counter.",
    mixed: "The driver's energy counter, and power × time where it has no value.",
    estimated_share: "Estimated share: others held a GPU at the same time; its energy is split by load.",
  };
  const isIntegrated = ({ energy_kind: kind }) => kind === "integrated" || kind === "mixed";
  // What stands for a name is sent in parentheses.
  const NAMES = { "(unknown)": "Unknown user", "(outside this container)": "Outside this container", "(none)": "None", "(shared)": "Shared, not split" };
  const NAME_TIPS = {
    "(shared)": "Energy of a GPU with MIG instances, or of several owners whose load the driver does not report.",
  };

  function buildGroupRow(by, row, { hours, energy, cost }) {
    const partly = row.utilized !== null && row.known < 0.995 ? `At least: the load of ${formatShare(row.known)} of the held time is known.` : "";
    const isShared = row.name === "(shared)"; // it has energy only
    const number = (value, digits, title = "") => (isShared && value === null ? cell("", null) : cell(format(value, digits), value, title));
    const attribution = isShared ? "" : row.utilized === null && row.is_estimated ? "shared, not split" : row.utilized === null ? UNKNOWN : row.is_estimated ? "shared (estimate)" : `sole ${TITLES[by].replace(/^[UCP]/, (letter) => letter.toLowerCase())}`;
    const noBase = row.active_kwh !== null && row.base_kwh === null ? "Not known until a GPU was without a process for ten minutes: active energy includes it." : "";
    const mark = isIntegrated(row) ? " *" : "";
    return [
      cell(NAMES[row.name] || row.name, NAMES[row.name] || row.name, NAME_TIPS[row.name] || ""),
      ...(by === "process" ? [cell(NAMES[row.user] || row.user || "")] : []),
      cell(row.gpus.map((gpu) => gpu.replace(/^GPU /, "")).join(", ")),
      isShared ? cell("", null) : cell(String(row.processes), row.processes),
      isShared ? cell("", null) : cell(format(row.held, hours), row.held),
      isShared ? cell("", null) : cell(format(row.shared, hours), row.shared, row.shared === null ? "Not calculated for times before the usage ledger." : ""),
      partly
        ? cell(`≥ ${format(row.utilized, hours)}`, row.utilized, partly)
        : number(row.utilized, hours, row.utilized === null ? "The driver reports no load of what was held." : ""),
      number(row.idle, hours),
      row.peak_gib === null ? cell(isShared ? "" : UNKNOWN, null) : cell(units.format(row.peak_gib, "GiB"), row.peak_gib),
      cell(`${format(row.active_kwh, energy)}${mark}`, row.active_kwh, KINDS[row.energy_kind] || ""),
      cell(isShared && row.base_kwh === null ? "" : format(row.base_kwh, energy), row.base_kwh, noBase),
      ...(hasCost() ? [cell(format(row.cost, cost), row.cost, row.active_kwh === null && row.cost !== null ? "Of the time: the energy is not known." : "")] : []),
      cell(attribution),
    ];
  }

  const hasCost = () => [...document.querySelectorAll('[data-usage-table="users"] thead th')].some((head) => head.textContent === "Cost");

  function buildGpuRow(gpu, hours, energy) {
    const source = gpu.kwh === null ? "No energy or power is reported." : KINDS[gpu.energy_kind] || "";
    return [
      cell(gpu.gpu, gpu.gpu, gpu.name),
      ...[gpu.held, gpu.utilized, gpu.idle, gpu.free].map((value) => cell(format(value, hours), value, value === null ? gpu.note : "")),
      cell(formatShare(gpu.coverage), gpu.coverage),
      cell(format(gpu.throttled, hours), gpu.throttled),
      cell(`${format(gpu.kwh, energy)}${isIntegrated(gpu) ? " *" : ""}`, gpu.kwh, source),
    ];
  }

  function buildGpuTotals(gpus, hours, energy) {
    const totals = ["held", "utilized", "idle", "free"].map((name) => sum(gpus.map((gpu) => gpu[name])));
    const [throttled, kwh] = ["throttled", "kwh"].map((name) => sum(gpus.map((gpu) => gpu[name])));
    const hoursOf = (value) => cell(format(value, hours), value);
    return [cell("Total"), ...totals.map(hoursOf), cell("", ""), hoursOf(throttled), cell(format(kwh, energy), kwh)];
  }

  // Processes have a column for their user.
  function setUserColumn(isShown) {
    const heads = document.querySelector('[data-usage-table="users"] thead tr');
    const present = heads.querySelector("[data-usage-user]");
    if (!isShown && present) present.remove();
    if (!isShown || present) return;
    const head = make("th", "", heads, TITLES.user);
    [head.scope, head.dataset.usageUser] = ["col", ""];
    heads.children[0].after(head);
  }

  function paintTable(name, rows, totals, emptyText, notes) {
    const table = document.querySelector(`[data-usage-table="${name}"]`);
    tables[name] = { rows, totals };
    table.hidden = rows.length === 0;
    document.querySelector(`[data-usage-csv="${name}"]`).hidden = rows.length === 0;
    const isNumeric = [...table.querySelectorAll("thead th")].map((head) => head.classList.contains("numeric"));
    const [body, foot] = [table.tBodies[0], table.tFoot];
    for (const [section, content] of [[body, rows], [foot, totals ? [totals] : []]]) {
      section.replaceChildren();
      for (const cells of content) {
        const row = make("tr", "", section);
        cells.forEach(({ text, title }, position) => {
          const element = make(position ? "td" : "th", isNumeric[position] ? "numeric" : "", row, text);
          if (position === 0) element.scope = "row";
          if (title) element.dataset.tip = title;
          element.classList.toggle("unknown", text === UNKNOWN);
        });
      }
    }
    write(document.querySelector(`[data-usage-table-empty="${name}"]`), rows.length ? "" : emptyText);
    write(document.querySelector(`[data-usage-table-note="${name}"]`), notes.filter(Boolean).join(" "));
  }

  const PLURALS = { user: "users", container: "containers", slurm_job: "Slurm jobs", process: "processes" };

  // The page has the longest rows; the API has all, of the ledger only.
  function addRestLink(by, leftOut, { start, end }) {
    if (!leftOut) return;
    const note = document.querySelector('[data-usage-table-note="users"]');
    const query = new URLSearchParams({ start, end, by, format: "csv" });
    const link = make("a", "no-print", note, `Download all ${PLURALS[by]} (CSV)`);
    link.href = `${dashtop.viewRequest.url("api/v1/system/usage")}?${query}`;
    link.download = "";
  }

  function paintTables({ rows, gpus, has_ledger: hasLedger, left_out: leftOut, unattributed_kwh: unattributed, start, end }) {
    const by = settings.get("usage_by");
    document.querySelector("[data-usage-by]").value = by;
    const groups = rows[by];
    const hours = chooseDigits([...rows.user, ...gpus].map(({ held, free }) => Math.max(held, free || 0)), 2);
    const energy = chooseDigits([...gpus.map(({ kwh }) => kwh), ...groups.map(({ active_kwh }) => active_kwh)], 3);
    const digits = { hours, energy: Math.max(2, energy), cost: chooseDigits(groups.map(({ cost }) => cost), 2) };
    document.querySelector('[data-usage-table="users"] thead th').textContent = TITLES[by];
    setUserColumn(by === "process");
    paintTable("users", groups.map((row) => buildGroupRow(by, row, digits)), null, `No compute process ${timeline.describePeriod()}.`, [
      groups.some(({ is_estimated }) => is_estimated) &&
        (hasLedger
          ? "Shared (estimate): others held a GPU at the same time; the load is that of each process, the energy is split by it."
          : "Shared (estimate): others held a GPU at the same time; its utilization is split by the time that each held it."),
      groups.some(({ utilized, known }) => utilized !== null && known < 0.995) && "≥: the load of a part of the held time is not known.",
      unattributed !== null && `${format(unattributed, digits.energy)} kWh were used while no process held a GPU.`,
      leftOut[by] > 0 && `${leftOut[by]} more ${PLURALS[by]} are not shown. `,
    ]);
    if (hasLedger) addRestLink(by, leftOut[by], { start, end });
    const noted = gpus.filter(({ note }) => note).map(({ gpu, note }) => `${gpu}: ${note}.`);
    paintTable("gpus", gpus.map((gpu) => buildGpuRow(gpu, hours, energy)), gpus.length > 1 ? buildGpuTotals(gpus, hours, energy) : null, `No GPU was read ${timeline.describePeriod()}.`, [
      gpus.some(({ kwh }) => kwh !== null) && "Energy: board energy as the driver reports it.",
      [...gpus, ...groups].some(isIntegrated) && "* Power × time, where the driver reported no value of its energy counter.",
      ...noted,
    ]);
  }

  // --- totals -------------------------------------------------------------------------------------------------

  function addTotal(list, title, value, unit, explanation) {
    const item = make("div", "usage-total", list);
    item.dataset.tip = explanation;
    make("dt", "", item, title);
    const number = make("dd", "", item, value);
    if (value !== UNKNOWN) make("span", "total", number, ` ${unit}`);
  }

  const MIN_LEDGER_MS = 3000000; // as in usage_data.py

  function describeSource({ has_ledger: hasLedger, began, end, start }) {
    if (hasLedger) return "";
    if (end - start < MIN_LEDGER_MS) return "Calculated from the stored samples: the period is shorter than an hour.";
    return began === null
      ? "Calculated from the stored samples: the usage ledger begins within a minute."
      : `Calculated from the stored samples: the usage ledger began ${times.date(began)} ${times.minutes(began)}.`;
  }

  function paintTotals({ start, end, coverage, gpus, error, is_cut: isCut, ...source }) {
    const host = document.querySelector(".host-name").textContent;
    const period = `${times.date(start)} ${times.minutes(start)} – ${times.date(end)} ${times.minutes(end)}, ${times.zoneName()}`;
    write(document.querySelector("[data-usage-period]"), `${host} · ${period} · measured ${formatShare(coverage)} of the window`);
    const list = document.querySelector("[data-usage-totals]");
    list.replaceChildren();
    const total = (name) => sum(gpus.map((gpu) => gpu[name]));
    const digits = chooseDigits(["held", "utilized", "free"].map(total), 2);
    addTotal(list, "Held", format(total("held"), digits), "GPU-h", "Time with a compute process, all GPUs together");
    addTotal(list, "Utilized", format(total("utilized"), digits), "GPU-h", "Time × utilization: 2 h at 50 % are 1 h");
    addTotal(list, "Idle, held", format(total("idle"), digits), "GPU-h", "Held at a utilization of at most 1 %");
    addTotal(list, "Free", format(total("free"), digits), "GPU-h", "Time without a compute process");
    const measured = gpus.filter(({ kwh }) => kwh !== null).length;
    addTotal(list, measured < gpus.length ? `Energy (${measured} of ${gpus.length} GPUs)` : "Energy", format(total("kwh"), chooseDigits([total("kwh")], 3)), "kWh", "Board energy as the driver reports it");
    list.hidden = gpus.length === 0;
    write(document.querySelector("[data-usage-empty]"), gpus.length ? "" : `No GPU was read ${timeline.describePeriod()}.`);
    write(document.querySelector("[data-usage-note]"), [error, gpus.length > 0 && describeSource({ start, end, ...source }), isCut && "The period has more process records than are read at once: the oldest are missing."].filter(Boolean).join(" "));
  }

  function paint(snapshot) {
    const { usage } = snapshot;
    const panel = document.querySelector("[data-usage-table]");
    if (!usage || !panel || (usage === drawn && times.zone() === drawnZone)) return;
    if (![...document.querySelectorAll("#panel-usage, #panel-usage-users, #panel-usage-gpus")].some(dashtop.viewRequest.isShown)) return;
    [drawn, drawnZone] = [usage, times.zone()];
    timeline.hideTip();
    paintTotals(usage);
    paintHeat(usage.heat);
    paintTables(usage);
  }

  // --- files and paper ----------------------------------------------------------------------------------------

  function quote(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function download(name) {
    const heads = [...document.querySelectorAll(`[data-usage-table="${name}"] thead th`)].map((head) => head.textContent);
    const { rows, totals } = tables[name];
    const titles = heads.map((head) => (head === "Peak VRAM" ? "Peak VRAM (GiB)" : head));
    const lines = [titles, ...[...rows, ...(totals ? [totals] : [])].map((row) => row.map(({ value }) => value))];
    const text = lines.map((line) => line.map(quote).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new window.Blob([`${text}\r\n`], { type: "text/csv" }));
    const day = (ms) => times.toWall(ms).slice(0, 16).replace(/[-:]/g, "").replace(" ", "T");
    const title = name === "users" ? settings.get("usage_by").replace("user", "users") : name;
    link.download = `dashtop-usage-${title}-${document.querySelector(".host-name").textContent}-${day(drawn.start)}-${day(drawn.end)}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-usage-by]")) settings.set({ usage_by: event.target.value });
  });

  document.addEventListener("click", (event) => {
    const csv = event.target.closest("[data-usage-csv]");
    if (csv && drawn) download(csv.dataset.usageCsv);
    if (event.target.closest("[data-print]")) window.print();
  });

  settings.onChange((names) => {
    if ((names.includes("memory") || names.includes("usage_by")) && drawn) paintTables(drawn);
  });
  painters.push(paint);
})();
