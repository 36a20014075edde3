// The compare view: a card for each GPU, made once and then only changed. Names come from outside: text, never markup.
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const MINUTE = 12; // buckets of a spark
  const COLOURS = 8;
  const GAP = 255;

  // A row of app/dashtop/ui/compare.py, after the GPU's index: key, unit, decimals, class.
  const FIELDS = [
    ["gpu.utilization.gpu", "%", 0, ""],
    ["gpu.memory.used_gb", "GiB", 1, "part"],
    ["gpu.memory.total_gb", "GiB", 1, "whole"],
    ["gpu.memory.used_percent", "%", 0, ""],
    ["gpu.temperature", "°C", 0, ""],
    ["gpu.power.current_watts", "W", 0, "part"],
    ["gpu.power.max_watts", "W", 0, "whole"],
    ["gpu.fan_speed", "%", 0, ""],
  ];
  const [LOAD, USED, TOTAL, FILL] = [0, 1, 2, 3];
  const LEVELS = ["", "elevated", "high"];

  const held = { strips: null, sparks: null };
  const cards = new Map();
  let sorted = "";

  function make(tag, className, parent, text) {
    const element = document.createElement(tag);
    element.className = className;
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  function field(position, parent) {
    const [key, unit, , shape] = FIELDS[position];
    if (shape === "whole") parent.append(" / ");
    const element = make("span", `number of-card ${shape}`, parent);
    element.dataset.metric = key;
    if (shape !== "part") element.dataset.unit = unit;
    return element;
  }

  function row(card, label, positions, bar) {
    const line = make("div", "metric-row", card.body);
    const name = make("span", "label", line, label);
    make("span", "", line);
    const value = make("span", "value", line);
    positions.forEach((position) => (card.fields[position] = field(position, value)));
    card.bars[bar] = make("div", "bar", line);
    card.bars[bar].setAttribute("role", "meter");
    card.bars[bar].setAttribute("aria-valuemin", "0");
    card.bars[bar].setAttribute("aria-valuemax", "100");
    card.bars[bar].setAttribute("aria-label", label);
    return name;
  }

  function fact(card, parent, label, positions) {
    const part = make("div", "fact", parent);
    make("dt", "", part, label);
    const value = make("dd", "", part);
    positions.forEach((position) => (card.fields[position] = field(position, value)));
  }

  function picture(card, name) {
    const canvas = make("canvas", name, card.body);
    canvas.setAttribute("role", "img");
    return canvas;
  }

  function build(index, fleet) {
    const body = make("article", "panel gpu-card", fleet);
    body.id = `gpu-card-${index}`;
    body.style.setProperty("--series", `var(--gpu-${index % COLOURS})`);
    const card = { body, fields: [], bars: [] };
    const head = make("div", "card-top", body);
    const open = make("button", "card-open", head);
    open.type = "button";
    open.dataset.open = String(index);
    make("span", "card-index", open, `GPU ${index}`);
    card.name = make("span", "card-model", open);
    card.free = make("span", "free-mark", head, "Free");
    card.state = make("p", "card-state", body);
    row(card, "Utilization", [LOAD], LOAD);
    make("span", "shared-mark", row(card, "Memory", [USED, TOTAL], FILL), "shared").title = fleet.dataset.shared;
    const facts = make("dl", "card-facts", body);
    fact(card, facts, "Temp.", [4]);
    fact(card, facts, "Power", [5, 6]);
    fact(card, facts, "Fan", [7]);
    card.spark = picture(card, "spark");
    card.strip = picture(card, "strip");
    const line = make("p", "card-process", body);
    card.process = make("span", "process-name", line);
    card.owner = make("span", "process-rest", line);
    return card;
  }

  function paintField(element, value, [, unit, digits], about) {
    const missing = typeof value === "string";
    const shown = missing ? { value: null, symbol: unit } : window.dashtop.units.shown(value, unit);
    parts.write(element, missing ? "N/A" : shown.value.toFixed(digits));
    if (element.dataset.unit) parts.mark(element, "unit", shown.symbol);
    element.classList.toggle("missing", missing);
    const title = missing ? value : about;
    if (element.title !== title) element.title = title;
  }

  function paintCard(card, [, name, , shared], values, rest) {
    const [levels, state, process, processes, free] = rest;
    parts.write(card.name, name);
    card.name.title = name;
    card.body.classList.toggle("is-free", free === 1);
    parts.write(card.state, state);
    card.body.classList.toggle("has-state", state !== "");
    card.body.classList.toggle("is-shared", shared);
    FIELDS.forEach((told, position) => {
      const about = shared && (position === USED || position === TOTAL) ? card.body.parentElement.dataset.shared : "";
      if (card.fields[position]) paintField(card.fields[position], values[position], told, about);
    });
    for (const position of [LOAD, FILL]) {
      const value = values[position];
      parts.fill(card.bars[position], typeof value === "string" ? null : value, LEVELS[levels[position]]);
    }
    const unknown = typeof process === "string";
    const [program, user, mebibytes] = (!unknown && process) || [unknown ? "Processes not known" : "No process", null, null];
    parts.write(card.process, program);
    card.process.title = unknown ? process : program;
    card.body.classList.toggle("is-idle", unknown || !process);
    const more = processes > 1 ? `+${processes - 1}` : "";
    const size = mebibytes === null ? "" : window.dashtop.units.text(mebibytes / 1024, "GiB");
    parts.write(card.owner, [user, size, more].filter(Boolean).join(" · "));
  }

  // --- pictures of the last hour and the last minutes -----------------------------------------------------------

  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  function canvasOf(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.fillStyle = pen.strokeStyle = window.getComputedStyle(canvas).color;
    return [pen, width, height];
  }

  function said(use, span) {
    const known = [...use].filter((value) => value !== GAP);
    if (!known.length) return `No readings in ${span}`;
    const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
    return `Use in ${span}: mean ${mean.toFixed(0)} %, highest ${Math.max(...known)} %`;
  }

  function describe(canvas, words) {
    canvas.setAttribute("aria-label", words);
    canvas.title = words;
  }

  function drawStrip(canvas, use) {
    const [pen, width, height] = canvasOf(canvas);
    const cell = width / use.length;
    use.forEach((value, at) => {
      if (value === GAP) return;
      pen.globalAlpha = 0.1 + (0.9 * value) / 100;
      pen.fillRect(at * cell, 0, Math.max(cell - 1, 1), height);
    });
    describe(canvas, said(use, "the last hour"));
  }

  function drawSpark(canvas, use) {
    const [pen, width, height] = canvasOf(canvas);
    const place = (at) => [(at / (use.length - 1)) * width, height - 1 - (use[at] / 100) * (height - 2)];
    let from = null;
    const close = (to) => {
      if (from === null) return;
      pen.beginPath();
      pen.moveTo(place(from)[0], height);
      for (let at = from; at <= to; at += 1) pen.lineTo(...place(at));
      pen.lineTo(place(to)[0], height);
      pen.globalAlpha = 0.16;
      pen.fill();
      pen.beginPath();
      for (let at = from; at <= to; at += 1) pen.lineTo(...place(at));
      if (from === to) pen.lineTo(place(to)[0] - 2, place(to)[1]); // a reading alone is seen, too
      pen.globalAlpha = 1;
      pen.lineWidth = 1.5;
      pen.stroke();
      from = null;
    };
    use.forEach((value, at) => {
      if (value === GAP) close(at - 1);
      else if (from === null) from = at;
    });
    close(use.length - 1);
    describe(canvas, said(use, "the last five minutes"));
  }

  function drawAll() {
    for (const card of cards.values()) {
      if (!card.body.offsetParent) continue;
      if (card.hour) drawStrip(card.strip, card.hour);
      if (card.minutes) drawSpark(card.spark, card.minutes);
    }
  }

  function keep(compare, order) {
    for (const kind of ["strips", "sparks"]) {
      const news = compare[kind];
      if (!news) continue;
      held[kind] = news.name;
      order.forEach((index, at) => (cards.get(index)[kind === "strips" ? "hour" : "minutes"] = bytes(news.use[at])));
    }
    if (compare.strips || compare.sparks) drawAll();
    return Boolean(compare.sparks);
  }

  // --- the order of the cards: by what lasts, and not at every tick, so that nothing jumps about ------------------

  function weight(row, by) {
    const values = row.slice(1);
    const number = (position) => (typeof values[position] === "string" ? -1 : values[position]);
    if (by === "free") return -(number(TOTAL) - number(USED));
    if (by === "load") {
      const minute = [...(cards.get(row[0]).minutes || [])].slice(-MINUTE).filter((value) => value !== GAP);
      return -(minute.length ? minute.reduce((sum, value) => sum + value, 0) / minute.length : number(LOAD));
    }
    return row[0];
  }

  function sort(fleet, rows, due) {
    const by = document.querySelector("#compare-order .btn-check:checked")?.value || "index";
    if (!due && sorted === `${by}|${rows.length}`) return;
    sorted = `${by}|${rows.length}`;
    const order = [...rows].sort((one, other) => weight(one, by) - weight(other, by) || one[0] - other[0]);
    order.forEach(([index], at) => {
      const { body } = cards.get(index);
      if (fleet.children[at] !== body) fleet.insertBefore(body, fleet.children[at] || null);
    });
  }

  function paintCompare(frame) {
    const fleet = document.querySelector("[data-fleet]");
    if (!fleet || !frame.compare) return;
    const rows = frame.compare.rows;
    const present = new Set(rows.map(([index]) => index));
    for (const [index, card] of cards) {
      if (present.has(index) && card.body.isConnected) continue;
      card.body.remove();
      cards.delete(index);
    }
    fleet.dataset.many = rows.length > 16 ? "true" : "false";
    rows.forEach((row, at) => {
      if (!cards.has(row[0])) cards.set(row[0], build(row[0], fleet));
      paintCard(cards.get(row[0]), frame.devices[at], row.slice(1, 1 + FIELDS.length), row.slice(1 + FIELDS.length));
    });
    const free = rows.filter((row) => row.at(-1) === 1).length;
    const count = document.querySelector("[data-free]");
    parts.write(count, `${free} of ${rows.length} free`);
    count.classList.toggle("some", free > 0);
    const due = keep(frame.compare, rows.map(([index]) => index));
    sort(fleet, rows, due);
  }

  document.addEventListener("click", (event) => {
    const card = event.target.closest(".gpu-card");
    if (card) window.dashtop.openGpu(Number(card.id.slice("gpu-card-".length)));
  });
  let resizing = null;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(resizing);
    resizing = requestAnimationFrame(drawAll);
  });
  window.dashtop.theme.onChange(() => requestAnimationFrame(drawAll));

  window.dashtop.compare = { held };
  painters.push(paintCompare);
})();
