// The cursor of the charts: one moment in all of them, by mouse, finger or arrow keys. Each chart shows a line there and
// its values at the edge that is further away. Plotly's own hover would cost 10 ms a chart, and hide the lines.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { charts, internals, parts, settings, times, units } = dashtop;
  const MARK_PX = 6;
  const FAST = 10;
  const MAX_ROWS = 9;
  const ZOOM_FACTOR = 2;
  const MIN_SPAN_MS = 2000;
  let cursor = null; // epoch ms
  let announceTimer = null;

  const containers = () => [...document.querySelectorAll(".chart")].filter((each) => each.offsetParent);
  const idOf = (container) => container.firstElementChild.id;
  const plotOf = (container) => container.querySelector(".js-plotly-plot");

  function formatNumber(value, { unit, digits }) {
    return unit ? units.format(value, unit, digits) : value.toFixed(digits);
  }

  function formatState(value, { states, flags }) {
    const names = states.filter(([number]) => (flags ? value & number : value === number)).map(([, name]) => name);
    return names.join(", ") || (flags ? "none" : String(value));
  }

  // "96.5 % (61.0–98.0 %)", "1.2 GB/s (287.6 MB/s–1.5 GB/s)"; without a range that would show the same number twice.
  function formatRow([mean, low, high], meta) {
    if (meta.states) return formatState(mean, meta);
    const [text, lowest, highest] = [mean, low, high].map((value) => formatNumber(value, meta));
    if (lowest === highest) return text;
    const [number, unit] = lowest.split(" ");
    return `${text} (${unit === highest.split(" ")[1] ? number : lowest}–${highest})`;
  }

  // What a chart shows at a moment: {time, rows: [[colour, label, text]], notes: [text]}; null outside of its data.
  function readAt(chart, time) {
    const figure = charts.figure(chart);
    const lines = charts.lines(chart);
    if (!figure || lines.length === 0) return null;
    const { x0, dx } = lines[0];
    const at = Math.min(Math.max(Math.round((time - x0) / dx), 0), lines[0].rows.length - 1);
    const moment = x0 + at * dx;
    const rows = lines
      .filter((line) => line.known[at])
      .map((line) => [line.colour, line.meta.label, formatRow(line.rows[at], line.meta)]);
    const plot = document.querySelector(`#${chart} .js-plotly-plot, #${chart}.js-plotly-plot`);
    const near = plot ? internals.msPerPixel(plot) * MARK_PX : dx;
    const marks = (figure.marks || []).filter(([ms]) => Math.abs(ms - moment) <= Math.max(dx, near)).map(([, text]) => text);
    const bands = (figure.bands || []).filter(([start, end]) => start <= moment && moment < end).map(([, , text]) => text);
    return { time: moment, rows, notes: [...bands, ...marks] };
  }

  function partsOf(container) {
    let line = container.querySelector(".chart-cursor");
    if (!line) {
      line = parts.make("div", "chart-cursor", container);
      const box = parts.make("div", "chart-readout", container);
      parts.make("div", "readout-time", box);
      parts.make("ul", "", box);
    }
    return [line, line.nextElementSibling];
  }

  function buildRow(list) {
    const row = parts.make("li", "", list);
    parts.make("span", "readout-name", row);
    parts.make("span", "readout-value", row);
  }

  // Of many lines those on top: they are drawn last.
  function shorten(rows) {
    if (rows.length <= MAX_ROWS) return rows;
    return [...rows.slice(1 - MAX_ROWS).reverse(), ["", "", `${rows.length - MAX_ROWS + 1} more`]];
  }

  // Names come from processes: they are written as text.
  function paint(container) {
    const [line, box] = partsOf(container);
    const plot = plotOf(container);
    const shown = cursor !== null && plot && internals.hasAxes(plot) ? readAt(idOf(container), cursor) : null;
    const x = shown ? internals.timeToPixel(plot, times.toWall(cursor)) : -1;
    const isInside = shown && shown.rows.length + shown.notes.length > 0 && x >= internals.plotEdges(plot)[0] - 1 && x <= internals.plotEdges(plot)[1] + 1;
    line.hidden = box.hidden = !isInside;
    if (!isInside) return;
    line.style.transform = `translateX(${x.toFixed(1)}px)`;
    box.classList.toggle("at-left", x > container.clientWidth / 2);
    parts.write(box.firstElementChild, times.moment(shown.time));
    const rows = [...shorten(shown.rows), ...shown.notes.slice(0, 4).map((text) => ["", "", text])];
    const list = box.lastElementChild;
    parts.fit(list, rows.length, buildRow);
    rows.forEach(([colour, label, text], index) => {
      const row = list.children[index];
      row.style.setProperty("--series", colour || "transparent");
      row.classList.toggle("is-note", !colour);
      parts.write(row.children[0], label);
      parts.write(row.children[1], text);
    });
  }

  function move(time) {
    cursor = time;
    containers().forEach(paint);
  }

  // --- mouse and finger -------------------------------------------------------------------------------------------

  let frame = null;
  document.addEventListener("pointermove", (event) => {
    const container = event.target.closest(".chart");
    if (frame || (!container && cursor === null) || event.buttons || document.activeElement?.closest(".chart:focus-visible")) return;
    frame = requestAnimationFrame(() => {
      frame = null;
      const plot = container && plotOf(container);
      const inside = plot && internals.hasAxes(plot) && container.matches(":hover");
      move(inside ? times.fromWall(internals.pixelToTime(plot, event.clientX - container.getBoundingClientRect().left)) : null);
    });
  });

  // --- keyboard -----------------------------------------------------------------------------------------------------

  const live = document.createElement("div");
  live.className = "visually-hidden";
  live.setAttribute("aria-live", "polite");
  live.style.top = "0"; // at the end of the page it would make an embedded panel scroll
  document.body.append(live);

  // Not at every step of a key that is held down.
  function announce(chart) {
    clearTimeout(announceTimer);
    announceTimer = setTimeout(() => {
      const shown = cursor === null ? null : readAt(chart, cursor);
      if (shown) live.textContent = [times.moment(shown.time), ...shown.rows.map(([, label, text]) => `${label} ${text}`), ...shown.notes].join(", ");
    }, 250);
  }

  function step(chart, by) {
    const [line] = charts.lines(chart);
    if (!line) return;
    const last = line.x0 + (line.rows.length - 1) * line.dx;
    const from = cursor === null ? last + (by < 0 ? line.dx : 0) : cursor;
    move(Math.min(Math.max(from + by * line.dx, line.x0), last));
    announce(chart);
  }

  function zoomBy(chart, factor) {
    const range = charts.figure(chart)?.layout.xaxis.range;
    if (!range) return;
    const [start, end] = settings.span() || range;
    const centre = cursor === null ? (start + end) / 2 : cursor;
    const half = Math.max(((end - start) / 2) * factor, MIN_SPAN_MS);
    settings.setSpan(Math.round(centre - half), Math.round(Math.min(centre + half, Date.now())));
  }

  const KEYS = {
    ArrowLeft: (chart, event) => step(chart, event.shiftKey ? -FAST : -1),
    ArrowRight: (chart, event) => step(chart, event.shiftKey ? FAST : 1),
    Home: (chart) => step(chart, -Infinity),
    End: (chart) => step(chart, Infinity),
    "+": (chart) => zoomBy(chart, 1 / ZOOM_FACTOR),
    "-": (chart) => zoomBy(chart, ZOOM_FACTOR),
    0: () => charts.resetZoom(),
    Escape: () => move(null),
    Enter: (chart) => dashtop.chartTable.open(chart),
  };

  document.addEventListener("keydown", (event) => {
    if (!event.target.matches(".chart") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act(idOf(event.target), event);
  });
  document.addEventListener("focusout", (event) => event.target.matches(".chart") && move(null));

  // --- summaries ----------------------------------------------------------------------------------------------------

  // Mean, lowest, highest and last value of a line; null if it has none.
  function summarize(line) {
    const rows = line.rows.filter((_, at) => line.known[at]);
    if (rows.length === 0 || line.meta.states) return null;
    const mean = rows.reduce((sum, [value]) => sum + value, 0) / rows.length;
    const low = Math.min(...rows.map(([, value]) => value));
    const high = Math.max(...rows.map(([, , value]) => value));
    return { mean, low, high, last: rows.at(-1)[0] };
  }

  function describe(line) {
    const found = summarize(line);
    if (!found) return line.meta.label;
    const [mean, low, high, last] = [found.mean, found.low, found.high, found.last].map((value) => formatNumber(value, line.meta));
    return `${line.meta.label}: mean ${mean}, min ${low}, max ${high}, now ${last}`;
  }

  // The name of the chart for screen readers, and in the legend the mean of a zoomed period.
  function writeSummary(chart) {
    const element = document.getElementById(chart);
    const container = element && element.closest(".chart");
    if (!container) return;
    const lines = charts.lines(chart);
    const text = charts.figure(chart).message || lines.map(describe).join(". ");
    container.setAttribute("aria-label", `${container.dataset.title}. ${text}`);
    for (const span of container.closest(".panel").querySelectorAll("[data-period]")) {
      const line = lines.find(({ metric }) => metric === span.dataset.period);
      const found = line && summarize(line);
      parts.write(span, found ? `mean ${formatRow([found.mean, found.low, found.high], line.meta)}` : "");
    }
    if (cursor !== null) paint(container);
  }

  charts.onDraw(writeSummary);
  dashtop.chartCursor = { summarize, formatNumber, formatRow };
})();
