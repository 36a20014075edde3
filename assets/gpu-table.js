// The table of GPUs on the overview: a row for each, built once and then updated. Names are untrusted: they are written
// as text. Columns: app/dashtop/ui/panels/overview.py; data: app/dashtop/ui/overview_data.py.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings } = dashtop;
  const { make, write } = parts;
  const SORT_INTERVAL_MS = 10_000;
  const MAX_USERS = 2;
  const NONE = "‒";
  const GAP = 255;
  const UTILIZATION = "gpu.utilization.gpu";
  const MEMORY = "gpu.memory.used_gb";
  const TEMPERATURE = "gpu.temperature";
  const POWER = "gpu.power.current_watts";
  // Where work can start comes first.
  const CONDITIONS = ["free", "idle_held", "busy", "split", "throttled", "unhealthy", "asleep", "unavailable", "not_responding", "lost"];

  // What the column "Since" is about; the label of any other condition says it.
  const SINCE = { busy: "In use" };

  const rows = new Map(); // by GPU index
  const drawn = { facts: null, devices: null, last_hour: null, order: "", sortedAt: 0 };

  // --- building a row -------------------------------------------------------------------------------------------

  function addCell(row, name, className = "") {
    const cell = make("td", `column-${name} ${className}`.trim(), row);
    cell.setAttribute("role", "cell");
    return cell;
  }

  // "GPU 8 · MIG 3g.20gb": below its GPU, a narrow row leaves out what the rows of one GPU share.
  function writeName(element, name) {
    if (element.textContent === name) return;
    const end = name.indexOf("MIG");
    element.replaceChildren();
    if (end > 0) make("span", "row-parent", element, name.slice(0, end));
    element.append(name.slice(Math.max(end, 0)));
  }

  function build(index, body) {
    const row = make("tr", "", body);
    row.setAttribute("role", "row");
    row.dataset.openGpu = String(index);
    const head = make("th", "column-gpu", row);
    head.setAttribute("role", "rowheader");
    head.scope = "row";
    const name = make("a", "row-name", head);
    name.dataset.openGpu = String(index);
    const model = make("span", "row-model", head);
    const stateCell = addCell(row, "state");
    const state = make("span", "state", stateCell);
    const wait = make("button", "row-watch", stateCell);
    wait.type = "button";
    wait.dataset.tip = "Notify me when it is free";
    make("span", "icon icon-bell", wait);
    wait.setAttribute("aria-label", `Notify me when GPU ${index} is free`);
    wait.setAttribute("aria-haspopup", "dialog");
    wait.dataset.watchGpu = String(index);
    const use = addCell(row, "utilization", "numeric");
    const spark = make("span", "row-spark", use);
    spark.setAttribute("role", "img");
    const utilization = make("span", "number", use);
    const memory = addCell(row, "memory", "numeric");
    const bar = make("span", "bar", memory);
    bar.setAttribute("aria-hidden", "true");
    const size = make("span", "row-size", memory);
    const used = make("span", "number", size);
    const total = make("span", "row-total", size);
    const temperature = make("span", "number", addCell(row, "temperature", "numeric"));
    const power = make("span", "number", addCell(row, "power", "numeric"));
    const users = addCell(row, "users");
    const process = addCell(row, "process");
    const since = addCell(row, "since");
    return { row, name, model, state, spark, utilization, bar, used, total, temperature, power, users, process, since };
  }

  // --- painting a row -------------------------------------------------------------------------------------------

  function writeNumber(element, value, unit, digits, title = "") {
    const { value: shown, symbol } = dashtop.units.convert(value, unit);
    write(element, shown === null ? NONE : shown.toFixed(digits));
    parts.mark(element, "unit", shown === null ? "" : symbol);
    parts.mark(element, "tip", title);
  }

  function formatUsers(users) {
    const others = users.length > MAX_USERS ? ` +${users.length - MAX_USERS}` : "";
    return users.slice(0, MAX_USERS).join(", ") + others;
  }

  function formatProcess({ process, process_count: count }) {
    if (process === null) return NONE;
    return count > 1 ? `${process} +${count - 1}` : process;
  }

  function paintFacts(parts_, facts, device) {
    const { row, name, model, state, users, process } = parts_;
    row.dataset.gpuState = facts.condition;
    parts.mark(row, "severity", facts.severity);
    row.classList.toggle("is-instance", facts.parent !== null);
    writeName(name, facts.name);
    name.href = `?page=gpus&view=single&gpu=${device.uuid}`;
    name.setAttribute("aria-label", `${facts.name}, ${facts.label}`);
    write(model, device.name.replace(/^NVIDIA /, ""));
    parts.mark(model, "tip", device.name);
    write(state, facts.label);
    parts.mark(state, "tip", facts.detail);
    // Of a lost GPU those who held it last.
    const { last_holder: last } = facts;
    write(users, formatUsers(last && last.user ? [last.user] : facts.users) || NONE);
    parts.mark(users, "tip", last ? `Held it last: ${last.user || "unknown"}` : facts.users.join(", "));
    write(process, formatProcess(last || facts));
    parts.mark(process, "tip", last ? `Used it last: ${last.process}` : facts.process || "");
    row.classList.toggle("is-unused", facts.process === null);
  }

  function paintValues(each, facts, values) {
    const { missing } = facts;
    const limit = facts.power_limit === null ? "" : `of ${facts.power_limit} W`;
    writeNumber(each.utilization, values[UTILIZATION], "%", 0, missing[UTILIZATION]);
    writeNumber(each.used, values[MEMORY], "GiB", 1, missing[MEMORY]);
    const total = dashtop.units.convert(facts.memory_total, "GiB");
    write(each.total, values[MEMORY] === null || total.value === null ? "" : ` / ${total.value.toFixed(total.value < 100 ? 1 : 0)} ${total.symbol}`);
    parts.mark(each.used, "unit", total.value === null && values[MEMORY] !== null ? total.symbol : "");
    const share = values[MEMORY] === null || !facts.memory_total ? null : (100 * values[MEMORY]) / facts.memory_total;
    parts.fill(each.bar, share, facts.memory_level);
    writeNumber(each.temperature, values[TEMPERATURE], "°C", 0, missing[TEMPERATURE]);
    parts.mark(each.temperature, "level", facts.temperature_level);
    writeNumber(each.power, values[POWER], "W", 0, missing[POWER] || limit);
  }

  function paintSince(element, facts, now) {
    write(element, dashtop.formatSince(facts.since, now, facts.is_since_exact) || NONE);
    const moment = facts.since === null ? "" : `since ${dashtop.times.moment(facts.since)}${facts.is_since_exact ? "" : " or earlier"}`;
    parts.mark(element, "tip", moment && `${SINCE[facts.condition] || facts.label} ${moment}`);
  }

  function drawSparkline(element, text) {
    const percents = text ? [...Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))] : [];
    const last = percents.length - 1;
    const points = percents.map((value, at) => [at / last, value]).filter(([, value]) => value !== GAP);
    dashtop.sparklines.draw(element, points, 100, 1.5 / last);
    const mean = points.reduce((sum, [, value]) => sum + value, 0) / points.length;
    element.setAttribute("aria-label", points.length ? `Last hour: mean ${mean.toFixed(0)} %` : "No readings in the last hour");
  }

  // --- the order of the rows: it follows slow values, and not every snapshot, so that rows do not jump -------------

  const SORT_KEYS = {
    state: (facts) => CONDITIONS.indexOf(facts.condition),
    utilization: (facts, values) => values[UTILIZATION] ?? -1,
    memory: (facts, values) => values[MEMORY] ?? -1,
    temperature: (facts, values) => values[TEMPERATURE] ?? -1,
    power: (facts, values) => values[POWER] ?? -1,
    users: (facts) => facts.users[0] || "\uffff",
    process: (facts) => facts.process || "\uffff",
    since: (facts) => facts.since ?? Infinity,
  };

  const compare = (one, other) => (one < other ? -1 : Number(one > other));

  // MIG instances follow their GPU.
  function compareIndex([one], [other]) {
    return (one.parent ?? one.index) - (other.parent ?? other.index) || (one.parent === null ? -1 : 0) - (other.parent === null ? -1 : 0) || one.index - other.index;
  }

  function sort(body, snapshot) {
    const choice = settings.get("sort") || "gpu";
    const [column, sign] = choice.startsWith("-") ? [choice.slice(1), -1] : [choice, 1];
    const order = `${choice}|${snapshot.gpu_facts.length}`;
    const now = performance.now();
    const isDue = column !== "gpu" && now - drawn.sortedAt > SORT_INTERVAL_MS && !body.matches(":hover, :focus-within");
    if (drawn.order === order && !isDue) return;
    Object.assign(drawn, { order, sortedAt: now });
    const key = SORT_KEYS[column];
    const entries = snapshot.gpu_facts.map((facts, at) => [facts, snapshot.gpu_rows[at]]);
    entries.sort((one, other) => (key ? sign * compare(key(...one), key(...other)) || compareIndex(one, other) : sign * compareIndex(one, other)));
    entries.forEach(([{ index }], at) => {
      const { row } = rows.get(index);
      if (body.children[at] !== row) body.insertBefore(row, body.children[at] || null);
    });
    body.classList.toggle("is-nested", column === "gpu");
    showOrder(column, sign);
  }

  function showOrder(column, sign) {
    for (const button of document.querySelectorAll("[data-gpu-column]")) {
      const isSorted = button.dataset.gpuColumn === column;
      button.closest("th").setAttribute("aria-sort", isSorted ? (sign > 0 ? "ascending" : "descending") : "none");
    }
  }

  // A click sorts by a column, a second one in the other direction.
  function choose({ gpuColumn, descending }) {
    const current = settings.get("sort") || "gpu";
    const first = `${descending ? "-" : ""}${gpuColumn}`;
    const second = `${descending ? "" : "-"}${gpuColumn}`;
    const next = current === first ? second : first;
    settings.set({ sort: next === "gpu" ? "" : next });
  }

  // --- the table ------------------------------------------------------------------------------------------------

  // Returns whether rows were added or removed.
  function updateRows(body, facts) {
    const present = new Set(facts.map(({ index }) => index));
    const gone = [...rows.keys()].filter((index) => !present.has(index) || !rows.get(index).row.isConnected);
    for (const index of gone) {
      rows.get(index).row.remove();
      rows.delete(index);
    }
    const missing = facts.filter(({ index }) => !rows.has(index));
    for (const { index } of missing) rows.set(index, build(index, body));
    return gone.length + missing.length > 0;
  }

  function paintTable(snapshot) {
    const body = document.querySelector("[data-gpu-table]");
    const { gpu_facts: facts, gpu_rows: values, last_hour: hour } = snapshot;
    if (!body || !facts || !values || facts.length !== values.length) return;
    const hasChanged = updateRows(body, facts);
    facts.forEach((each, at) => {
      const row = rows.get(each.index);
      const device = snapshot.devices.find(({ index }) => index === each.index);
      if (hasChanged || facts !== drawn.facts || snapshot.devices !== drawn.devices) paintFacts(row, each, device);
      paintValues(row, each, values[at]);
      paintSince(row.since, each, snapshot.time);
      if (hour && (hasChanged || hour !== drawn.last_hour)) drawSparkline(row.spark, hour[each.index]);
    });
    Object.assign(drawn, { facts, devices: snapshot.devices, last_hour: hour });
    if (hasChanged) drawn.order = "";
    sort(body, snapshot);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-gpu-column]");
    if (button) choose(button.dataset);
  });
  settings.onChange((names) => {
    if (names.includes("sort")) dashtop.repaint();
  });
  dashtop.gpuConditions = CONDITIONS;
  painters.push(paintTable);
})();
