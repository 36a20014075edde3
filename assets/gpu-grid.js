// The view of all GPUs: a card for each, built once and then updated. Names are untrusted: they are written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts } = dashtop;
  const { make } = parts;
  const GPU_COLOURS = 8; // in tokens.css
  const MANY_GPUS = 16;
  const LOAD_BUCKETS = 12; // of "last_minutes": the mean of the last minute
  const GAP = 255;

  // How a metric is shown (columns of app/dashtop/ui/panels/gpu_grid.py). A "part" is followed by its "total".
  const UTILIZATION = { key: "gpu.utilization.gpu", unit: "%", digits: 0 };
  const MEMORY_USED = { key: "gpu.memory.used_gb", unit: "GiB", digits: 1, role: "part", ofMemory: true };
  const MEMORY_TOTAL = { key: "gpu.memory.total_gb", unit: "GiB", digits: 1, role: "total", ofMemory: true };
  const MEMORY_PERCENT = { key: "gpu.memory.used_percent" };
  const TEMPERATURE = { key: "gpu.temperature", unit: "°C", digits: 0 };
  const POWER = { key: "gpu.power.current_watts", unit: "W", digits: 0, role: "part" };
  const POWER_LIMIT = { key: "gpu.power.max_watts", unit: "W", digits: 0, role: "total" };
  const FAN = { key: "gpu.fan_speed", unit: "%", digits: 0 };

  const cards = new Map(); // by GPU index
  const drawn = { last_hour: null, last_minutes: null }; // the parts of the snapshot that cards show
  let sortedBy = "";

  const isNumber = (value) => typeof value === "number"; // otherwise it is the reason why there is no value

  // --- building a card ------------------------------------------------------------------------------------------

  function addField(card, metric, parent) {
    if (metric.role === "total") parent.append(" / ");
    const element = make("span", `number gpu-card-value ${metric.role || ""}`, parent);
    element.dataset.metric = metric.key;
    if (metric.role !== "part") element.dataset.unit = metric.unit;
    card.fields.push({ element, metric });
  }

  function addRow(card, label, metrics) {
    const line = make("div", "metric-row", card.body);
    const name = make("span", "label", line, label);
    make("span", "", line);
    const value = make("span", "value", line);
    metrics.forEach((metric) => addField(card, metric, value));
    const bar = make("div", "bar", line);
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-label", label);
    return { name, bar };
  }

  function addFact(card, parent, label, metrics) {
    const fact = make("div", "fact", parent);
    make("dt", "", fact, label);
    const value = make("dd", "", fact);
    metrics.forEach((metric) => addField(card, metric, value));
    return fact;
  }

  function addPicture(card, tag, className, caption) {
    make("span", "picture-caption", card.body, caption);
    const element = make(tag, className, card.body);
    element.setAttribute("role", "img");
    return element;
  }

  function build(index, grid) {
    const body = make("article", "panel gpu-card", grid);
    body.id = `gpu-card-${index}`;
    for (const name of ["--series", "--gpu"]) body.style.setProperty(name, `var(--gpu-${index % GPU_COLOURS})`);
    const card = { body, fields: [] };
    const head = make("div", "card-header", body);
    const open = make("button", "card-open", head);
    open.type = "button";
    open.dataset.open = String(index);
    card.open = open;
    make("span", "card-index", open, `GPU ${index}`);
    card.name = make("span", "card-model", open);
    card.condition = make("span", "card-condition", head);
    card.state = make("p", "card-state", body);
    card.utilizationBar = addRow(card, "Utilization", [UTILIZATION]).bar;
    const memory = addRow(card, "Memory", [MEMORY_USED, MEMORY_TOTAL]);
    card.memoryBar = memory.bar;
    make("span", "shared-mark", memory.name, "shared").dataset.tip = grid.dataset.shared;
    const facts = make("dl", "card-facts", body);
    card.temperature = addFact(card, facts, "Temp.", [TEMPERATURE]);
    addFact(card, facts, "Power", [POWER, POWER_LIMIT]);
    card.fan = addFact(card, facts, "Fan", [FAN]);
    card.spark = addPicture(card, "div", "sparkline", "Last 5 min");
    card.strip = addPicture(card, "canvas", "heat-strip", "Last hour");
    const line = make("p", "card-process", body);
    card.process = make("span", "process-name", line);
    card.processDetail = make("span", "process-rest", line);
    return card;
  }

  // --- painting a card ------------------------------------------------------------------------------------------

  function paintField(element, value, { unit, digits }, help) {
    const missing = !isNumber(value);
    const shown = missing ? { value: null, symbol: unit } : dashtop.units.convert(value, unit);
    parts.write(element, missing ? "N/A" : shown.value.toFixed(digits));
    if (element.dataset.unit) parts.mark(element, "unit", shown.symbol);
    element.classList.toggle("missing", missing);
    parts.mark(element, "tip", missing ? value : help);
  }

  function paintBar(bar, value, level = "") {
    parts.fill(bar, isNumber(value) ? value : null, level);
  }

  function paintProcess(card, gpu) {
    const error = gpu.processes_error;
    const name = error ? "Processes not known" : gpu.process_name || "No process";
    parts.write(card.process, name);
    parts.mark(card.process, "tip", error || name);
    card.body.classList.toggle("is-idle", Boolean(error) || !gpu.process_name);
    const size = gpu.process_memory_mib === null ? "" : dashtop.units.format(gpu.process_memory_mib / 1024, "GiB");
    const others = gpu.process_count > 1 ? `+${gpu.process_count - 1}` : "";
    parts.write(card.processDetail, [gpu.process_user, size, others].filter(Boolean).join(" · "));
  }

  function paintCard(card, gpu, device, sharedHelp) {
    parts.write(card.name, device.name);
    parts.mark(card.name, "tip", device.name);
    card.body.classList.toggle("is-free", gpu.is_free);
    card.body.dataset.gpuState = gpu.condition;
    parts.write(card.condition, gpu.label);
    parts.write(card.state, gpu.state);
    parts.mark(card.body, "severity", gpu.severity);
    const label = `GPU ${gpu.index}, ${device.name}, ${gpu.label.toLowerCase()}`;
    if (card.open.getAttribute("aria-label") !== label) card.open.setAttribute("aria-label", label);
    parts.mark(card.temperature, "level", gpu.temperature_level);
    // Of a GPU without a fan, or one that cannot be read.
    card.fan.hidden = !isNumber(gpu[FAN.key]);
    card.body.classList.toggle("is-shared", device.shares_host_memory);
    for (const { element, metric } of card.fields) {
      paintField(element, gpu[metric.key], metric, device.shares_host_memory && metric.ofMemory ? sharedHelp : "");
    }
    paintBar(card.utilizationBar, gpu[UTILIZATION.key]);
    paintBar(card.memoryBar, gpu[MEMORY_PERCENT.key], gpu.memory_level);
    paintProcess(card, gpu);
  }

  // --- pictures of the last hour and the last minutes -----------------------------------------------------------

  function decode(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  const knownOf = (percents) => [...percents].filter((value) => value !== GAP);
  const meanOf = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function describe(element, percents, span) {
    const known = knownOf(percents);
    const text = known.length
      ? `Use in ${span}: mean ${meanOf(known).toFixed(0)} %, highest ${Math.max(...known)} %`
      : `No readings in ${span}`;
    element.setAttribute("aria-label", text);
    parts.mark(element, "tip", text);
  }

  function drawHeatStrip(canvas, percents) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = window.getComputedStyle(canvas).color;
    const cell = width / percents.length;
    percents.forEach((value, at) => {
      if (value === GAP) return;
      context.globalAlpha = 0.1 + (0.9 * value) / 100;
      context.fillRect(at * cell, 0, Math.max(cell - 1, 1), height);
    });
    describe(canvas, percents, "the last hour");
  }

  function drawSparkline(element, percents) {
    const last = percents.length - 1;
    const points = [...percents].map((value, at) => [at / last, value]).filter(([, value]) => value !== GAP);
    dashtop.sparklines.draw(element, points, 100, 1.5 / last);
    describe(element, percents, "the last five minutes");
  }

  function drawPictures() {
    for (const card of cards.values()) {
      if (!card.body.offsetParent) continue;
      if (card.lastHour) drawHeatStrip(card.strip, card.lastHour);
      if (card.lastMinutes) drawSparkline(card.spark, card.lastMinutes);
    }
  }

  // Returns whether the last minutes have changed.
  function updatePictures(snapshot, hasNewCards) {
    const newer = (name) => hasNewCards || snapshot[name] !== drawn[name];
    const [hourIsNewer, minutesAreNewer] = [newer("last_hour"), newer("last_minutes")];
    if (!hourIsNewer && !minutesAreNewer) return false;
    Object.assign(drawn, { last_hour: snapshot.last_hour, last_minutes: snapshot.last_minutes });
    for (const [index, card] of cards) {
      card.lastHour = decode(snapshot.last_hour[index]);
      card.lastMinutes = decode(snapshot.last_minutes[index]);
    }
    drawPictures();
    return minutesAreNewer;
  }

  // --- the order of the cards: it follows slow values, and not every snapshot, so that cards do not jump ----------

  function sortKey(gpu, by) {
    const number = (metric) => (isNumber(gpu[metric.key]) ? gpu[metric.key] : -1);
    if (by === "state") return dashtop.gpuConditions.indexOf(gpu.condition);
    if (by === "free") return -(number(MEMORY_TOTAL) - number(MEMORY_USED));
    if (by === "load") {
      const minute = knownOf((cards.get(gpu.index).lastMinutes || []).slice(-LOAD_BUCKETS));
      return -(minute.length ? meanOf(minute) : number(UTILIZATION));
    }
    return gpu.index;
  }

  function sort(grid, gpus, force) {
    const by = document.querySelector("#compare-order .btn-check:checked")?.value || "index";
    if (!force && sortedBy === `${by}|${gpus.length}`) return;
    sortedBy = `${by}|${gpus.length}`;
    const order = [...gpus].sort((one, other) => sortKey(one, by) - sortKey(other, by) || one.index - other.index);
    let hasMoved = false;
    order.forEach(({ index }, at) => {
      const { body } = cards.get(index);
      if (grid.children[at] === body) return;
      grid.insertBefore(body, grid.children[at] || null);
      hasMoved = true;
    });
    // A card in another column may be a little wider: its canvas would be stretched.
    if (hasMoved) drawPictures();
  }

  // Returns whether there are new cards.
  function updateCards(grid, gpus) {
    const present = new Set(gpus.map(({ index }) => index));
    for (const [index, card] of cards) {
      if (present.has(index) && card.body.isConnected) continue;
      card.body.remove();
      cards.delete(index);
    }
    const missing = gpus.filter(({ index }) => !cards.has(index));
    for (const { index } of missing) cards.set(index, build(index, grid));
    return missing.length > 0;
  }

  function paintGrid(snapshot) {
    const grid = document.querySelector("[data-gpu-grid]");
    const { gpus } = snapshot;
    if (!grid || !gpus) return;
    const hasNewCards = updateCards(grid, gpus);
    grid.dataset.many = String(gpus.length > MANY_GPUS);
    gpus.forEach((gpu, at) => paintCard(cards.get(gpu.index), gpu, snapshot.devices[at], grid.dataset.shared));
    const free = gpus.filter((gpu) => gpu.is_free).length;
    const count = document.querySelector("[data-free]");
    parts.write(count, `${free} of ${gpus.filter((gpu) => gpu.is_counted).length} free`);
    count.classList.toggle("has-free", free > 0);
    const hasNewMinutes = updatePictures(snapshot, hasNewCards);
    sort(grid, gpus, hasNewMinutes);
  }

  document.addEventListener("click", (event) => {
    const card = event.target.closest(".gpu-card");
    if (card) dashtop.openGpu(Number(card.id.slice("gpu-card-".length)));
  });
  let frameRequest = null;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(frameRequest);
    frameRequest = requestAnimationFrame(drawPictures);
  });
  dashtop.theme.onChange(() => requestAnimationFrame(drawPictures));
  painters.push(paintGrid);
})();
