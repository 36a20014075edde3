// The page of runs: the list, and the reports of one or two runs, which are read from the API. Names, tags and marks are
// untrusted: everything is written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, times, units } = dashtop;
  const { make, fit, write, mark } = parts;
  const REPORT_INTERVAL_MS = 10_000; // of a report that is not final
  const REQUEST_TIMEOUT_MS = 8000;
  const MIN_SPAN_MS = 60_000; // that the charts of a short run show
  const MAX_SHOWN_MARKS = 100;
  const MAX_RUNS = 2;
  const UNKNOWN = "N/A";
  const KINDS = { counter: "board energy, by the driver's counter", integrated: "power × time: the driver has no energy counter", estimated_share: "estimated share: others held the GPU at the same time" };

  let now = Date.now(); // of the server
  let shown = []; // what is shown of the chosen runs: {id, data, error, read, isReading}
  let painted = "";
  let isWanted = false; // the user has chosen a run whose report is not read yet

  const find = (name) => document.querySelector(`[data-${name}]`);
  const number = (value, digits) => value.toFixed(value > 0 && value < 10 ** -digits / 2 ? digits + 2 : digits);

  function formatDuration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const two = (value) => String(value).padStart(2, "0");
    if (whole < 60) return `${whole} s`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
    if (whole < 48 * 3600) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
    return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
  }

  const formatEnergy = (wh) => (wh === null ? UNKNOWN : wh >= 1000 ? `${(wh / 1000).toFixed(2)} kWh` : `${number(wh, wh < 10 ? 2 : 0)} Wh`);
  const formatSize = (gib) => (gib === null ? UNKNOWN : units.format(gib, "GiB"));
  const formatTags = (tags) => Object.entries(tags).map(([name, value]) => `${name}=${value}`).join(" · ");
  const shortGpu = (label) => label.replace(/^GPU (?=\d)/, "");

  // --- list -----------------------------------------------------------------------------------------------------

  function buildRow(body) {
    const row = make("tr", "", body);
    const name = make("th", "", row);
    name.scope = "row";
    make("button", "run-name", name).type = "button";
    make("span", "run-tags", name);
    make("td", "", row).dataset.cell = "user";
    make("span", "run-state", make("td", "", row));
    make("td", "", row);
    make("td", "numeric", row);
    make("td", "run-gpus", row);
    make("td", "numeric", row);
    make("td", "numeric", row);
    const compare = make("button", "btn btn-sm btn-light", make("td", "numeric", row), "Compare");
    compare.type = "button";
    row.querySelector(".run-name").addEventListener("click", () => settings.set({ run: row.dataset.run }));
    compare.addEventListener("click", () => settings.set({ run: [settings.list("run")[0], row.dataset.run].join(",") }));
  }

  function setCell(cell, text, tip = "") {
    write(cell, text);
    cell.classList.toggle("unknown", text === UNKNOWN);
    mark(cell, "tip", tip || null);
  }

  function paintRow(row, run, chosen) {
    const [name, user, state, began, duration, gpus, memory, energy, compare] = row.children;
    mark(row, "run", run.id);
    write(name.firstElementChild, run.name);
    const isChosen = chosen.includes(run.id);
    row.classList.toggle("is-chosen", isChosen);
    name.firstElementChild.setAttribute("aria-pressed", String(isChosen));
    write(name.lastElementChild, [run.simulated ? "simulated" : "", formatTags(run.tags)].filter(Boolean).join(" · "));
    setCell(user, run.user === null ? UNKNOWN : run.user);
    write(state.firstElementChild, run.state);
    mark(state.firstElementChild, "state", run.state);
    mark(state.firstElementChild, "tip", run.state === "lost" ? "Its process has ended, or was silent for 90 s, without saying so" : null);
    write(began, times.moment(run.begin));
    write(duration, formatDuration(((run.end === null ? now : run.end) - run.begin) / 1000));
    if (run.gpus === null) setCell(gpus, UNKNOWN, `${run.no_gpus[0].toUpperCase()}${run.no_gpus.slice(1)}`);
    else setCell(gpus, run.gpus.length ? run.gpus.map(shortGpu).join(", ") : "none", run.gpus.join(", "));
    const explain = (value, kind) => (run.final ? kind : value === null ? "Not calculated yet; its report has it" : `Until now; it is calculated every 30 s, or later if there are many runs${kind && `: ${kind}`}`);
    setCell(memory, formatSize(run.peak_gib), explain(run.peak_gib, ""));
    setCell(energy, formatEnergy(run.energy), explain(run.energy, KINDS[run.kind] || ""));
    compare.firstElementChild.classList.toggle("is-reserved", chosen.length !== 1 || isChosen);
    compare.firstElementChild.setAttribute("aria-label", `Compare with ${run.name}`);
  }

  function paintList(snapshot) {
    const body = find("runs");
    if (!body || !snapshot.runs || !dashtop.viewRequest.isShown(body.closest(".panel"))) return;
    const { runs } = snapshot;
    const chosen = settings.list("run");
    fit(body, runs.length, buildRow);
    runs.forEach((run, position) => paintRow(body.children[position], run, chosen));
    body.closest(".table-scroll").hidden = runs.length === 0;
    find("runs-empty").hidden = runs.length > 0;
  }

  // --- report ---------------------------------------------------------------------------------------------------

  async function read(entry) {
    entry.isReading = true;
    try {
      const answer = await fetch(dashtop.viewRequest.url(`api/v1/system/runs/${entry.id}/report`), { signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
      const content = await answer.json();
      if (answer.ok) [entry.data, entry.error] = [content, ""];
      else entry.error = content.detail || "The server refused it.";
    } catch {
      entry.error = "The server does not answer.";
    }
    [entry.isReading, entry.read] = [false, Date.now()];
    paintReports();
    showWanted();
  }

  const isDue = ({ data, isReading, read: last }) => !isReading && (last === 0 || ((!data || !data.report.is_final) && Date.now() - last > REPORT_INTERVAL_MS));

  // A row of the table: its title, its text for a GPU, and the field whose reason explains N/A.
  const percent = (name) => (gpu) => (gpu[name] === null ? UNKNOWN : `${gpu[name].toFixed(0)} %`);
  const seconds = (name) => (gpu) => (gpu[name] === null ? UNKNOWN : formatDuration(gpu[name]));
  const ROWS = [
    ["Held", seconds("held_s"), "held_s", "How long processes of the run held the GPU. All values are of that time."],
    ["Peak VRAM", (gpu) => formatSize(gpu.peak_gpu_memory_mb === null ? null : gpu.peak_gpu_memory_mb / 1024), "peak_gpu_memory_mb", "Most memory of all processes of the run together"],
    ["Utilization", percent("mean_utilization"), "mean_utilization", "Mean"],
    ["Utilization, 95th percentile", percent("p95_utilization"), "p95_utilization", "Not exceeded for 95 % of the time"],
    ["SM activity", percent("mean_sm"), "mean_sm", "Mean"],
    ["Tensor activity", percent("mean_tensor"), "mean_tensor", "Mean"],
    ["Energy", (gpu) => `${formatEnergy(gpu.energy_wh)}${gpu.energy_kind === "estimated_share" ? " (estimated share)" : ""}`, "energy_wh", "Board energy while processes of the run held the GPU"],
    ["Temperature, highest", (gpu) => (gpu.max_temperature === null ? UNKNOWN : units.format(gpu.max_temperature, "°C")), "max_temperature", "Highest of all readings"],
    ["Idle", seconds("idle_s"), "idle_s", "Held at a utilization of at most 1 %"],
    ["Thermal slowdown", seconds("thermal_s"), "thermal_s", "Slowed down by heat"],
    ["Power cap", seconds("power_cap_s"), "power_cap_s", "At the power limit"],
    ["XIDs", (gpu) => gpu.xids.map(({ code, count }) => (count > 1 ? `${count} × ${code}` : code)).join(", ") || "none", "", "Errors of the GPU during the run"],
    ["Diagnosis", (gpu) => (gpu.diagnosis ? gpu.diagnosis.verdict : UNKNOWN), "", "What limited the run on this GPU"],
  ];

  function addTotal(list, title, text, tip) {
    const item = make("div", "usage-total", list);
    make("dt", "", item, title);
    const value = make("dd", "", item, text);
    value.classList.toggle("unknown", text === UNKNOWN);
    if (tip) item.dataset.tip = tip;
  }

  function addTotals(parent, run, report) {
    const list = make("dl", "usage-totals", parent);
    const gpus = report.gpus || [];
    const energies = gpus.map((gpu) => gpu.energy_wh);
    const { peak_memory_gb: memory, mean_cpu_percent: cpu } = report.host;
    addTotal(list, run.end === null ? "Duration until now" : "Duration", formatDuration(report.duration_s));
    addTotal(list, "Measured", `${Math.round(100 * report.coverage)} %`, "Share of the run with readings");
    addTotal(list, "GPUs", report.gpus === null ? UNKNOWN : String(gpus.length), report.unavailable.gpus);
    addTotal(list, "Energy", gpus.length && !energies.includes(null) ? formatEnergy(energies.reduce((total, each) => total + each, 0)) : UNKNOWN, [...new Set(gpus.map((gpu) => KINDS[gpu.energy_kind]))].join("; "));
    addTotal(list, "Host RAM, highest", formatSize(memory), "In use on the whole machine");
    addTotal(list, "Host CPU, mean", cpu === null ? UNKNOWN : `${cpu.toFixed(0)} %`, "Of the whole machine");
  }

  const labelOf = (gpu) => (gpu.gpu_id === null ? gpu.gpu_uuid.slice(0, 12) : `GPU ${gpu.gpu_id}`);

  // The address of the charts of a GPU during the run.
  function chartsOf(run, uuid) {
    const end = run.end === null ? now : run.end;
    return `?page=gpus&view=single&gpu=${uuid}&from=${run.begin}&to=${Math.round(Math.max(end, run.begin + MIN_SPAN_MS))}`;
  }

  function addTable(parent, run, gpus) {
    const region = make("div", "table-scroll", parent);
    Object.assign(region, { tabIndex: 0, role: "region", ariaLabel: `GPUs of ${run.name}` });
    const table = make("table", "usage-table run-table", region);
    const head = make("tr", "", make("thead", "", table));
    make("span", "visually-hidden", make("th", "", head), "Value");
    for (const gpu of gpus) {
      const cell = make("th", "numeric", head);
      cell.scope = "col";
      const link = make("a", "", cell, labelOf(gpu));
      link.href = chartsOf(run, gpu.gpu_uuid);
      link.dataset.go = link.getAttribute("href");
      link.dataset.tip = `${gpu.gpu_name || "Unknown model"}: show the charts of this run`;
    }
    const body = make("tbody", "", table);
    for (const [title, format, field, tip] of ROWS) {
      const row = make("tr", "", body);
      const name = make("th", "", row, title);
      name.scope = "row";
      name.dataset.tip = tip;
      for (const gpu of gpus) {
        const text = String(format(gpu));
        const cell = make("td", "numeric", row, text);
        cell.classList.toggle("unknown", text === UNKNOWN);
        const reason = gpu.unavailable[field] || (title === "Diagnosis" && gpu.diagnosis ? [gpu.diagnosis.evidence.join(", "), gpu.diagnosis.note].filter(Boolean).join(". ") : "") || (title === "Energy" ? KINDS[gpu.energy_kind] : "");
        if (reason) cell.dataset.tip = reason;
      }
    }
  }

  function addList(parent, title, items) {
    if (!items.length) return;
    const details = make("details", "run-details", parent);
    make("summary", "", details, title);
    const list = make("ul", "", details);
    for (const [time, text] of items) {
      const item = make("li", "", list);
      make("span", "run-time", item, times.moment(time));
      item.append(` ${text}`);
    }
  }

  function buildReport(list, { data, error, id }) {
    const article = make("article", "run-report", list);
    if (!data) {
      make("p", "table-empty", article, error || `Reading the report of ${id}…`);
      return;
    }
    const { run, report, marks } = data;
    article.setAttribute("aria-label", `Report of ${run.name}`);
    const head = make("div", "run-head", article);
    make("h3", "", head, run.name);
    const state = make("span", "run-state", head, run.status);
    state.dataset.state = run.status;
    const facts = [run.simulated ? "simulated" : "", run.user || "", times.span(run.begin, run.end === null ? now : run.end), formatTags(run.tags)];
    make("p", "run-facts", article, facts.filter(Boolean).join(" · "));
    addTotals(article, run, report);
    if (report.gpus && report.gpus.length) addTable(article, run, report.gpus);
    else make("p", "table-note", article, `GPUs: ${report.unavailable.gpus}.`);
    const diagnoses = new Set((report.gpus || []).filter((gpu) => gpu.diagnosis).map((gpu) => `${labelOf(gpu)}: ${gpu.diagnosis.verdict} (${gpu.diagnosis.evidence.join(", ")}).`));
    for (const text of diagnoses) make("p", "run-diagnosis", article, text);
    addList(article, "Alerts", (report.gpus || []).flatMap((gpu) => gpu.alerts.map(({ time, text }) => [time, text])).sort(([one], [other]) => one - other));
    const newest = marks.slice(-MAX_SHOWN_MARKS).map(({ time, text }) => [time, text]);
    addList(article, run.marks > newest.length ? `Marks: the newest ${newest.length} of ${run.marks}` : `Marks: ${run.marks}`, newest);
    if (error) make("p", "alert-error", article, error);
  }

  function paintReports() {
    const list = find("run-reports");
    if (!list) return;
    const content = JSON.stringify([shown, times.zone(), settings.get("memory"), settings.get("temperature")], (key, value) => (key === "read" || key === "isReading" ? undefined : value));
    if (content === painted) return;
    painted = content;
    const open = new Set([...list.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent.replace(/\d+/g, "")));
    list.replaceChildren();
    list.dataset.count = String(shown.length);
    for (const entry of shown) buildReport(list, entry);
    for (const summary of list.querySelectorAll("summary")) if (open.has(summary.textContent.replace(/\d+/g, ""))) summary.parentElement.open = true;
    list.previousElementSibling.hidden = shown.length > 0;
    find("run-close").hidden = shown.length === 0;
  }

  // Below a long list a report is out of sight. Its height is known once it is read.
  function showWanted() {
    if (!isWanted || !shown.length || shown.some(({ data, error }) => !data && !error)) return;
    isWanted = false;
    const behavior = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    find("run-reports").closest(".panel").scrollIntoView({ block: "nearest", behavior });
  }

  function paint(snapshot) {
    now = snapshot.time || now;
    paintList(snapshot);
    const list = find("run-reports");
    if (!list || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    const chosen = settings.list("run").slice(0, MAX_RUNS);
    if (chosen.join() !== shown.map(({ id }) => id).join()) {
      shown = chosen.map((id) => shown.find((entry) => entry.id === id) || { id, data: null, error: "", read: 0, isReading: false });
    }
    shown.filter(isDue).forEach(read);
    paintReports();
    showWanted();
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-run-close]")) settings.set({ run: "" });
  });
  settings.onChange((names) => {
    if (!names.includes("run")) return;
    isWanted = settings.get("run") !== "";
    dashtop.repaint();
  });
  painters.push(paint);
})();
