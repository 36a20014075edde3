// The page of the fleet. Data: app/dashtop/ui/fleet_data.py. Names of nodes, users and GPUs are untrusted: they are
// written as text. The grid is a canvas, since 8,000 elements would take twice as long to paint.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, times, timeline, units } = dashtop;
  const { make, fit, write } = parts;
  const STATES = ["free", "idle_held", "busy", "unavailable"]; // as in fleet_data.py
  const STATE_TEXTS = { free: "free", idle_held: "idle, held", busy: "busy", unavailable: "unavailable" };
  const SHORT_STATE_TEXTS = { ...STATE_TEXTS, idle_held: "idle-held" };
  const NODE_TEXTS = { up: "up", down: "down", stale: "no new values", vanished: "gone", "": "up" };
  const UNKNOWN = 255;
  const NONE = "N/A";
  const BYTES = 4;
  const MIN_CELL_PX = 6;
  const MAX_CELL_PX = 18;
  const NAME_PX = 15;
  const MAX_NAMED_NODES = 160;
  const PANELS = "#fleet-summary, #fleet-grid, #fleet-free, #fleet-holders, #fleet-attention, #fleet-nodes, #fleet-node, #fleet-trend";
  const STRIP_HEIGHT_PX = 16;
  const LATE_INTERVALS = 3;

  let data = null; // {fleet, grid, cells, nodes, node, hours} as they were drawn
  let boxes = []; // where nodes are drawn: {name, x, y, width, height, columns, first, labels, isDown}
  let cells = new Uint8Array();
  let [cell, gap] = [MAX_CELL_PX, 2];
  let drawnFor = "";

  const NO_MATCH = "No GPU matches the chosen model and holder.";
  const isFiltered = () => Boolean(settings.get("fleet_type") || settings.get("fleet_user"));
  const find = (name) => document.querySelector(`[data-fleet-${name}]`);
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const percent = (value) => (value === null ? NONE : `${Math.round(value)} %`);
  const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function size(gib, digits = 0) {
    const { value, symbol } = units.convert(gib, "GiB");
    if (value === null) return NONE;
    if (value < 10_000) return `${value.toFixed(digits)} ${symbol}`;
    return symbol === "GB" ? `${(value / 1000).toFixed(1)} TB` : `${(value / 1024).toFixed(1)} TiB`;
  }

  function degrees(celsius) {
    const { value, symbol } = units.convert(celsius, "°C");
    return value === null ? NONE : `${Math.round(value)} ${symbol}`;
  }

  const watts = (value) => (value === null ? NONE : value >= 10_000 ? `${(value / 1000).toFixed(value >= 1e6 ? 0 : 1)} kW` : `${Math.round(value)} W`);

  function formatAge(seconds) {
    if (seconds < 120) return `${Math.max(0, Math.round(seconds))} s`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  }

  // --- summary --------------------------------------------------------------------------------------------------

  function paintAge({ fleet, fleet_age: age }) {
    const known = age !== null && age !== undefined;
    write(find("age"), known ? `${formatAge(age)} old` : "");
    parts.mark(find("age"), "old", known && (fleet.error || age > LATE_INTERVALS * fleet.interval) ? "true" : "");
  }

  function describeNotice({ error, is_starting: isStarting, warnings, notes, is_unencrypted: isUnencrypted }) {
    const texts = [];
    if (error) texts.push(isStarting ? error : `${error} The last answer is shown.`);
    if (warnings.length) texts.push(`The engine answered from a part of its data, so numbers are "at least": ${warnings.join("; ")}`);
    if (isUnencrypted) texts.push("The token is sent over plain HTTP: others in the network can read it.");
    return [...texts, ...notes].join(" ");
  }

  function paintTiles(summary) {
    const atLeast = summary.is_partial ? "≥ " : "";
    const shown = {
      gpus: [summary.gpus, ""],
      free: [summary.free, ""],
      idle_held: [summary.idle_held, ""],
      busy: [summary.busy, ""],
      unavailable: [summary.unavailable, ""],
      nodes: [summary.nodes_up, ` / ${summary.nodes}`],
      power: summary.power_watts === null ? [NONE, ""] : watts(summary.power_watts).split(/(?= )/),
    };
    for (const [name, [number, rest]] of Object.entries(shown)) {
      const tile = document.querySelector(`[data-fleet-tile="${name}"]`);
      write(tile.querySelector(".number"), number === NONE ? NONE : `${atLeast}${number}`);
      write(tile.querySelector(".tile-rest"), rest || "");
      parts.mark(tile, "severity", name === "nodes" && summary.nodes_down ? "critical" : "");
    }
  }

  function paintFilter(name, values) {
    const select = document.querySelector(`[data-fleet-filter="${name}"]`);
    const chosen = settings.get(name);
    const wanted = ["", ...new Set([...values, ...(chosen ? [chosen] : [])])];
    if ([...select.options].map(({ value }) => value).join("\n") !== wanted.join("\n")) {
      while (select.options.length > 1) select.remove(1);
      for (const value of wanted.slice(1)) select.add(Object.assign(document.createElement("option"), { value, textContent: value }));
    }
    if (select.value !== chosen) select.value = chosen;
  }

  function paintSummary({ fleet }) {
    write(find("notice"), describeNotice(fleet));
    paintTiles(fleet.summary);
    paintFilter("fleet_type", fleet.types);
    paintFilter("fleet_user", fleet.users);
    // Other dashtops keep their own history: there is nothing to draw, and no time to choose.
    parts.mark(document.documentElement, "fleetHistory", fleet.has_history ? "" : "none");
  }

  // --- grid -----------------------------------------------------------------------------------------------------

  // Places the nodes in rows. A node is a block of cells, at most eight wide. Few nodes have their names above them; many
  // are two cells high, so that a thousand fit into half a screen.
  function place(grid, width) {
    const total = grid.reduce((sum, [, , gpus]) => sum + (typeof gpus === "number" ? gpus : gpus.length), 0);
    const hasNames = grid.length <= MAX_NAMED_NODES;
    gap = hasNames ? 2 : 1;
    cell = Math.max(MIN_CELL_PX, Math.min(MAX_CELL_PX, Math.floor(Math.sqrt((width * 360) / Math.max(1, total * 1.6))) - gap));
    const step = cell + gap;
    const [least, nodeGap] = hasNames ? [70, 10] : [0, 5];
    boxes = [];
    let [x, y, lineHeight, first] = [0, 0, 0, 0];
    for (const [name, isDown, gpus] of grid) {
      const number = typeof gpus === "number" ? gpus : gpus.length;
      const columns = Math.max(1, Math.min(hasNames ? number : Math.ceil(number / 2), 8));
      const boxWidth = Math.max(columns * step - gap, least);
      const height = (hasNames ? NAME_PX : 0) + Math.max(1, Math.ceil(number / columns)) * step - gap;
      if (x > 0 && x + boxWidth > width) [x, y, lineHeight] = [0, y + lineHeight + nodeGap, 0];
      boxes.push({ name, isDown, x, y, width: boxWidth, height, columns, first, number, labels: gpus, hasName: hasNames });
      x += boxWidth + nodeGap;
      lineHeight = Math.max(lineHeight, height);
      first += number;
    }
    return y + lineHeight;
  }

  function readColours() {
    const style = window.getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(name).trim();
    return { busy: get("--accent"), idle: get("--warning-text"), soft: get("--text-soft"), text: get("--text"), line: get("--line-strong"), surface: get("--surface"), down: get("--high"), font: get("--font") };
  }

  // Shape and colour say the state: free is an empty cell, idle fills its lower half, busy all of it, darker with more
  // load, and a cross is a GPU whose state is not known.
  function drawCell(pen, x, y, at, colours) {
    const [state, load] = [cells[BYTES * at], cells[BYTES * at + 1]];
    if (state === UNKNOWN) {
      pen.globalAlpha = 0.35;
      pen.fillStyle = colours.line;
      pen.fillRect(x + cell / 2 - 1, y + cell / 2 - 1, 2, 2);
      pen.globalAlpha = 1;
      return;
    }
    const name = STATES[state];
    pen.lineWidth = 1;
    if (name === "busy") {
      pen.fillStyle = colours.busy;
      pen.globalAlpha = load === UNKNOWN ? 0.6 : 0.4 + 0.6 * Math.min(1, load / 100);
      pen.fillRect(x, y, cell, cell);
      pen.globalAlpha = 1;
      return;
    }
    pen.strokeStyle = name === "free" ? colours.soft : colours.line;
    pen.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
    if (name === "idle_held") {
      pen.fillStyle = colours.idle;
      pen.fillRect(x, y + cell / 2, cell, cell / 2);
    } else if (name === "unavailable") {
      pen.strokeStyle = colours.soft;
      pen.beginPath();
      pen.moveTo(x + 2, y + 2);
      pen.lineTo(x + cell - 2, y + cell - 2);
      pen.moveTo(x + cell - 2, y + 2);
      pen.lineTo(x + 2, y + cell - 2);
      pen.stroke();
    }
  }

  function drawNode(pen, box, colours, chosen) {
    const top = box.y + (box.hasName ? NAME_PX : 0);
    if (box.hasName) {
      pen.fillStyle = box.isDown ? colours.down : colours.soft;
      pen.font = `11px ${colours.font}`;
      pen.fillText(shorten(pen, box.isDown ? `${box.name} ⚠` : box.name, box.width), box.x, box.y + 10);
    }
    const step = cell + gap;
    for (let at = 0; at < box.number; at += 1) drawCell(pen, box.x + (at % box.columns) * step, top + Math.floor(at / box.columns) * step, box.first + at, colours);
    if (box.isDown && box.number === 0) {
      pen.strokeStyle = colours.down;
      pen.strokeRect(box.x + 0.5, top + 0.5, Math.max(box.width, cell) - 1, cell - 1);
    }
    if (box.name === chosen) {
      pen.strokeStyle = colours.text;
      pen.lineWidth = 1.5;
      pen.strokeRect(box.x - 3, box.y - 2, box.width + 6, box.height + 5);
    }
  }

  // Names that differ at their ends, such as ports of one address, keep them.
  function shorten(pen, text, width) {
    let shown = text;
    while (shown.length > 1 && pen.measureText(shown === text ? text : `…${shown}`).width > width) shown = shown.slice(1);
    return shown === text ? text : `…${shown}`;
  }

  function drawGrid() {
    const canvas = find("canvas");
    const { fleet, grid } = data;
    const width = canvas.parentElement.clientWidth - 8;
    if (width <= 0 || !grid) return;
    const height = place(grid, width) + 8;
    const scale = window.devicePixelRatio || 1;
    canvas.hidden = grid.length === 0;
    if (canvas.width !== Math.round((width + 8) * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round((width + 8) * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 4 * scale, 3 * scale);
    pen.clearRect(-4, -3, width + 8, height);
    const colours = readColours();
    for (const box of boxes) drawNode(pen, box, colours, settings.get("fleet_node"));
    const { summary } = fleet;
    canvas.setAttribute("aria-label", `${count(summary.gpus, "GPU")} of ${count(summary.nodes, "node")}: ${summary.free} free, ${summary.idle_held} idle but held, ${summary.busy} busy, ${summary.unavailable} unavailable. The table of nodes has the same.`);
    write(find("empty"), grid.length ? "" : fleet.error || "The engine knows no GPU.");
  }

  // The node at a place of the window, and the position of the GPU in it.
  function locate(event) {
    const canvas = event.target.closest && event.target.closest("[data-fleet-canvas]");
    if (!canvas) return null;
    const frame = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left - 4, event.clientY - frame.top - 3];
    const box = boxes.find((each) => x >= each.x - 2 && x <= each.x + each.width + 2 && y >= each.y - 2 && y <= each.y + each.height + 2);
    if (!box) return null;
    const step = cell + gap;
    const row = Math.floor((y - box.y - (box.hasName ? NAME_PX : 0)) / step);
    const column = Math.floor((x - box.x) / step);
    const at = row >= 0 && column >= 0 && column < box.columns ? row * box.columns + column : -1;
    return { box, at: at >= 0 && at < box.number ? at : -1 };
  }

  function describeCell({ box, at }) {
    const texts = [box.name + (box.isDown ? " · down" : "")];
    if (at < 0) return [...texts, count(box.number, "GPU")];
    const label = typeof box.labels === "number" ? String(at) : box.labels[at];
    const [state, load, memory, heat] = cells.slice(BYTES * (box.first + at), BYTES * (box.first + at) + BYTES);
    if (state === UNKNOWN) return [...texts, `GPU ${label}: not selected`];
    const known = [[load, (value) => `utilization ${value} %`], [memory, (value) => `VRAM ${value} %`], [heat, degrees]];
    const values = known.filter(([value]) => value !== UNKNOWN).map(([value, format]) => format(value));
    return [...texts, `GPU ${label}: ${STATE_TEXTS[STATES[state]]}`, values.join(" · ")].filter(Boolean);
  }

  document.addEventListener("pointermove", (event) => {
    const found = locate(event);
    if (found) {
      const pointer = { left: event.clientX, right: event.clientX, bottom: event.clientY + 12 };
      timeline.showTip(event.target.closest(".card"), pointer, describeCell(found));
    } else if (event.target.matches && event.target.matches("[data-fleet-canvas]")) timeline.hideTip();
  });
  document.addEventListener("pointerout", (event) => {
    if (event.target.matches && event.target.matches("[data-fleet-canvas]")) timeline.hideTip();
  });

  // --- tables ---------------------------------------------------------------------------------------------------

  // Rows are lists of cells: a text, or {text, tip, numeric, node, mark, build, key}. `build` fills a cell; it is called
  // again when its `key` changes. Elements are kept, since a table that is built anew costs ten times as much.
  function paintTable(name, rows, emptyText, note = "") {
    const body = document.querySelector(`[data-fleet-table="${name}"]`);
    fit(body, rows.length, (parent) => make("tr", "", parent));
    rows.forEach((row, at) => {
      const line = body.children[at];
      row.forEach((content, position) => paintCell(line, position, typeof content === "string" ? { text: content } : content));
    });
    body.parentElement.hidden = rows.length === 0;
    write(document.querySelector(`[data-fleet-table-empty="${name}"]`), rows.length ? "" : emptyText);
    write(document.querySelector(`[data-fleet-table-note="${name}"]`), note);
  }

  function paintCell(line, position, { text = "", tip = "", numeric, node, mark = "", build, key }) {
    let element = line.children[position];
    if (!element) {
      element = make(position ? "td" : "th", numeric ? "numeric" : "", line);
      if (!position) element.scope = "row";
    }
    parts.mark(element, "tip", tip);
    parts.mark(element, "severity", mark);
    element.classList.toggle("unknown", text === NONE);
    if (build) {
      if (element.dataset.key === key) return;
      element.dataset.key = key;
      element.replaceChildren();
      build(element);
    } else if (node) {
      const button = element.firstElementChild || make("button", "link-button", element);
      button.type = "button";
      parts.mark(button, "fleetNodeName", node);
      write(button, text);
    } else write(element, text);
  }

  const formatHours = (hours) => (hours > 0 && hours < 1 ? "< 1" : hours.toFixed(0));
  const number = (text, tip) => ({ text: String(text), numeric: true, tip });

  function addCopyButton(element, devices) {
    if (!devices) return;
    const button = make("button", "btn btn-sm", element, "Copy devices");
    button.type = "button";
    button.dataset.fleetCopy = `CUDA_VISIBLE_DEVICES=${devices}`;
    button.dataset.tip = `Copies CUDA_VISIBLE_DEVICES=${devices}`;
  }

  function paintFree({ fleet }) {
    const rows = fleet.free.map(([node, gpus, memory, types, devices]) => [
      { text: node, node },
      number(gpus.length, `GPU ${gpus.join(", ")}`),
      number(size(memory)),
      types.join(", "),
      { build: (element) => addCopyButton(element, devices), key: devices || "" },
    ]);
    const more = fleet.free_nodes - rows.length;
    const isLimited = isFiltered() || settings.get("fleet_count") || settings.get("fleet_memory");
    paintTable("free", rows, isLimited ? "No node has free GPUs like these." : "No GPU is free.", more > 0 ? `And ${more} more nodes: choose a model.` : "");
  }

  function paintHolders({ fleet, fleet_hours: hours }) {
    const byUser = new Map(hours && !hours.error ? hours.rows : []);
    const shown = fleet.holders.map(([name, kind, gpus, idle, nodes, memory]) => [
      { text: kind === "user" ? name : `${name} (${kind})` },
      number(gpus),
      { ...number(idle), mark: idle ? "warning" : "" },
      number(size(memory)),
      number(nodes),
      number(byUser.has(name) ? formatHours(byUser.get(name)) : NONE),
    ]);
    const present = new Set(fleet.holders.map(([name]) => name));
    const past = settings.get("fleet_type") || settings.get("fleet_user") ? [] : [...byUser].filter(([name, value]) => !present.has(name) && value >= 0.5);
    const rows = [...shown, ...past.slice(0, 20).map(([name, value]) => [name, number(0), number(0), number(NONE), number(0), number(formatHours(value))])];
    const notes = [fleet.holder_count > shown.length && `And ${fleet.holder_count - shown.length} more.`, hours && hours.error && `GPU-hours: ${hours.error}`, ...((hours && hours.notes) || [])];
    parts.mark(document.querySelector('[data-fleet-table="holders"]').parentElement, "withoutHours", fleet.has_history ? "" : "true");
    paintTable("holders", rows, isFiltered() ? NO_MATCH : "Nobody holds a GPU, or no exporter says who does.", notes.filter(Boolean).join(" "));
  }

  function paintAttention({ fleet }) {
    const list = find("attention");
    const down = fleet.down.map(([node, state, reason, age]) => ({
      severity: state === "vanished" ? "" : "critical",
      node,
      text: `${NODE_TEXTS[state]}${reason ? `: ${reason}` : ""}`,
      rest: age === null ? "" : `${formatAge(age)} ago`,
    }));
    const hot = fleet.hot.map(([node, label, , , , , , celsius]) => ({ severity: "warning", node, text: `GPU ${label} is at ${degrees(celsius)}`, rest: "" }));
    const idle = fleet.idle.slice(0, 20).map(([node, label, , , , used, , , , holders]) => ({
      severity: "",
      node,
      text: `GPU ${label} is idle, ${size(used)} held`,
      rest: holders.join(", "),
    }));
    const items = [...down, ...hot, ...idle];
    fit(list, items.length, (parent) => {
      const item = make("li", "fleet-item", parent);
      make("span", "problem-mark", item).setAttribute("aria-hidden", "true");
      const button = make("button", "link-button", item);
      button.type = "button";
      make("span", "fleet-item-text", item);
      make("span", "fleet-item-rest", item);
    });
    items.forEach(({ severity, node, text, rest }, at) => {
      const item = list.children[at];
      parts.mark(item, "severity", severity);
      const [, button, what, more] = item.children;
      write(button, node);
      parts.mark(button, "fleetNodeName", node);
      write(what, text);
      write(more, rest);
    });
    const hidden = fleet.down_count - fleet.down.length + Math.max(0, fleet.idle_count - 20);
    write(find("attention-empty"), items.length ? (hidden > 0 ? `And ${hidden} more.` : "") : "Nothing is down, hot, or held without use.");
  }

  // "4 free, 2 busy"
  function describeStates(numbers, isUp) {
    const texts = numbers.map((value, at) => (value ? `${value} ${SHORT_STATE_TEXTS[STATES[at]]}` : "")).filter(Boolean);
    return texts.join(", ") || (isUp ? "none" : NONE);
  }

  function addStrip(element, text, { start, step }) {
    if (!text) return;
    const values = decode(text);
    const canvas = make("canvas", "fleet-strip", element);
    canvas.width = values.length;
    canvas.height = STRIP_HEIGHT_PX;
    canvas.role = "img";
    const known = [...values].filter((value) => value !== UNKNOWN);
    const mean = known.length ? `${Math.round(known.reduce((sum, value) => sum + value, 0) / known.length)} %` : NONE;
    canvas.setAttribute("aria-label", `mean of the last 24 h: ${mean}`);
    canvas.dataset.tip = `${times.span(start, start + values.length * step)}: mean ${mean}`;
    const pen = canvas.getContext("2d");
    pen.fillStyle = readColours().busy;
    values.forEach((value, at) => {
      const height = value === UNKNOWN ? 0 : Math.max(1, (value / 100) * STRIP_HEIGHT_PX);
      pen.fillRect(at, STRIP_HEIGHT_PX - height, 1, height);
    });
  }

  function paintNodes({ fleet_nodes: nodes, fleet_strips: found, fleet }) {
    if (!nodes) return;
    const strips = found || { rows: {} };
    const rows = nodes.rows.map(([name, state, reason, age, , exporter, numbers, types, load, [used, total], celsius, power]) => [
      { text: name, node: name, tip: [types.join(", "), exporter].filter(Boolean).join(" · ") },
      { text: NODE_TEXTS[state], tip: [reason, age === null ? "" : `values ${formatAge(age)} old`].filter(Boolean).join(", "), mark: state === "down" || state === "stale" ? "critical" : "" },
      { text: describeStates(numbers, state === "up" || state === "") },
      number(percent(load)),
      number(used === null ? NONE : `${size(used)} / ${size(total)}`),
      number(degrees(celsius)),
      number(watts(power)),
      {
        build: (element) => addStrip(element, strips.rows[name], strips),
        key: [name, strips.start, dashtop.theme.current(), times.zone(), Boolean(strips.rows[name])].join(),
      },
    ]);
    const notes = [strips.error && `Last 24 h: ${strips.error}`, ...(strips.notes || []), !fleet.has_history && "Other dashtops are read live: their history is on their own pages."];
    paintTable("nodes", rows, fleet.error || (isFiltered() ? NO_MATCH : "No node."), notes.filter(Boolean).join(" "));
    find("pager").hidden = nodes.pages < 2;
    write(find("page"), `${nodes.page + 1} / ${nodes.pages}`);
    for (const button of document.querySelectorAll("[data-fleet-step]")) {
      const next = nodes.page + Number(button.dataset.fleetStep);
      button.disabled = next < 0 || next >= nodes.pages;
      button.dataset.fleetTo = String(next);
    }
  }

  function paintNode({ fleet_node: node }) {
    const panel = find("node");
    if (panel.hidden === Boolean(node)) {
      panel.hidden = !node;
      dashtop.polling.requestNow();
    }
    if (!node) return;
    const [name, state, , , url, exporter] = node.row;
    write(panel.querySelector(".card-title"), [name, NODE_TEXTS[state], exporter].filter(Boolean).join(" · "));
    const link = find("open");
    link.hidden = !/^https?:\/\//.test(url || "");
    if (!link.hidden) link.href = url;
    const rows = node.gpus.map(([, label, type, gpuState, load, used, total, celsius, power, holders]) => [
      label,
      type,
      { text: STATE_TEXTS[gpuState] || gpuState },
      number(percent(load)),
      number(used === null ? NONE : `${size(used, 1)} / ${size(total)}`),
      number(degrees(celsius)),
      number(watts(power)),
      { text: holders.join(", ") || "‒" },
    ]);
    paintTable("node", rows, node.reason || "This node has no GPU now.");
    const chart = panel.querySelector(".chart");
    chart.hidden = !data.fleet.has_history || (rows.length === 0 && node.reason !== "");
    panel.querySelector(".legend").hidden = chart.hidden;
  }

  // --- painting -------------------------------------------------------------------------------------------------

  function paint(snapshot) {
    const { fleet } = snapshot;
    if (!fleet || ![...document.querySelectorAll(PANELS)].some(dashtop.viewRequest.isShown)) return;
    paintAge(snapshot);
    const state = { fleet, grid: snapshot.fleet_grid, cells: snapshot.fleet_cells, nodes: snapshot.fleet_nodes, strips: snapshot.fleet_strips, node: snapshot.fleet_node, hours: snapshot.fleet_hours };
    const key = [times.zone(), settings.get("memory"), settings.get("temperature"), settings.get("fleet_node"), dashtop.theme.current(), find("canvas").parentElement.clientWidth].join();
    const isNew = (name) => !data || data[name] !== state[name] || drawnFor !== key;
    const changed = Object.fromEntries(Object.keys(state).map((name) => [name, isNew(name)]));
    [data, drawnFor] = [state, key];
    if (changed.fleet) {
      paintSummary(snapshot);
      paintFree(snapshot);
      paintAttention(snapshot);
    }
    if (changed.fleet || changed.hours) paintHolders(snapshot);
    if (changed.grid || changed.cells) {
      cells = decode(snapshot.fleet_cells);
      drawGrid();
    }
    if (changed.nodes || changed.strips) paintNodes(snapshot);
    if (changed.node) paintNode(snapshot);
  }

  function chooseNode(name) {
    settings.set({ fleet_node: settings.get("fleet_node") === name ? "" : name });
    dashtop.polling.requestNow();
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.fleetCopy);
      write(button, "Copied");
    } catch {
      window.prompt("CUDA_VISIBLE_DEVICES", button.dataset.fleetCopy); // a page on plain http may not write
    }
  }

  document.addEventListener("click", (event) => {
    const found = locate(event);
    if (found) chooseNode(found.box.name);
    const node = event.target.closest("[data-fleet-node-name]");
    if (node) chooseNode(node.dataset.fleetNodeName);
    if (event.target.closest("[data-fleet-close]")) chooseNode("");
    const step = event.target.closest("[data-fleet-step]");
    if (step) {
      settings.set({ fleet_page: step.dataset.fleetTo });
      dashtop.polling.requestNow();
    }
    const button = event.target.closest("[data-fleet-copy]");
    if (button) copy(button);
  });

  settings.onChange((names) => {
    if (names.includes("fleet_type") || names.includes("fleet_user")) settings.set({ fleet_page: "" });
  });
  painters.push(paint);
})();
