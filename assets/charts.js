// The charts: one pointer and one zoom for all of them, and lines that stay hidden when new figures arrive.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { internals } = dashtop;
  const { settings, times } = dashtop;
  const touchScreen = window.matchMedia("(pointer: coarse)");
  const hidden = new Set(); // "chart metric"
  const figures = {};
  let pointerTime = null;
  let newestSince = null;

  const plots = () => [...document.querySelectorAll(".js-plotly-plot")];

  // "  (61.0 to 63.0)"; a range that would show the same number twice, and one of a gap, is empty.
  function formatRange(low, high, digits) {
    const [lowest, highest] = [low, high].map((value) => (Number.isFinite(value) ? value.toFixed(digits) : ""));
    return lowest === highest ? "" : `  (${lowest} to ${highest})`;
  }

  // The pointer shows the lowest and highest value of each bucket. They come with the trace, [mean, low, high], or are
  // the edges of its band, which are the two traces before it.
  function addRange(trace, index, data) {
    if (trace.customdata) {
      const rows = dashtop.units.decodeRows(trace.customdata);
      return { ...trace, customdata: rows.map(([mean, low, high]) => [mean, low, high, formatRange(low, high, 2)]) };
    }
    if (!(trace.hovertemplate || "").includes("customdata")) return trace;
    const [low, high] = data.slice(index - 2, index);
    const [lowest, highest] = [low, high].map((edge) => dashtop.units.decodeArray(edge.y));
    const offset = (low.x0 - trace.x0) / trace.dx; // buckets before the band begins
    const ranges = lowest.map((value, at) => [value, highest[at], formatRange(value, highest[at], 1)]);
    return { ...trace, customdata: [...Array.from({ length: offset }, () => [null, null, ""]), ...ranges] };
  }

  // Plotly shows numbers on a time axis in the browser's zone, and texts as they are. From a start and a step it cannot
  // know that daylight saving time begins or ends in between.
  function convertTimes(figure) {
    const { range } = figure.layout.xaxis;
    const changes = times.hasClockChange(...range);
    const isBrowserZone = range.every((ms) => times.offset(ms) === -60_000 * new Date(ms).getTimezoneOffset());
    if (isBrowserZone && !changes) return figure;
    const toShown = isBrowserZone ? (ms) => ms : times.toWall;
    const convert = (trace) => {
      if (!changes) return { ...trace, x0: toShown(trace.x0) };
      const moments = dashtop.units.decodeArray(trace.y).map((_, at) => trace.x0 + at * trace.dx);
      return { ...trace, x: moments.map(toShown), x0: undefined, dx: undefined };
    };
    const layout = { ...figure.layout, xaxis: { ...figure.layout.xaxis, range: range.map(toShown) } };
    const onTimeAxis = (shape) => (shape.xref || "x") === "x" && typeof shape.x0 === "number";
    layout.shapes = (layout.shapes || []).map((shape) => (onTimeAxis(shape) ? { ...shape, x0: toShown(shape.x0), x1: toShown(shape.x1) } : shape));
    return { data: figure.data.map(convert), layout };
  }

  function show(chart) {
    if (!figures[chart]) return;
    const converted = dashtop.units.convertFigure(figures[chart]);
    const figure = convertTimes({ ...converted, data: converted.data.map(addRange) });
    const data = figure.data.map((trace) => ({ ...trace, visible: !hidden.has(`${chart} ${trace.legendgroup}`) }));
    // On a touch screen a finger that moves over a chart scrolls the page.
    const layout = touchScreen.matches ? { ...figure.layout, dragmode: false } : figure.layout;
    window.dash_clientside.set_props(chart, { figure: { data, layout } });
    writeLegend(chart, data);
  }

  // Legends of layers that only the figure knows. Process names are untrusted: they are written as text.
  function writeLegend(chart, data) {
    const list = document.querySelector(`[data-legend="${chart}"]`);
    if (!list) return;
    const named = data.filter((trace) => trace.meta);
    dashtop.parts.fit(list, named.length, (parent) => dashtop.parts.make("span", "legend-item", parent));
    named.forEach((trace, position) => {
      dashtop.parts.write(list.children[position], trace.meta);
      list.children[position].style.setProperty("--series", trace.line.color);
    });
  }

  function writeSince(since) {
    newestSince = since;
    const time = since && times.minutes(since);
    for (const element of document.querySelectorAll("[data-since]")) dashtop.parts.write(element, time ? `since ${time}` : "");
  }

  function draw(charts) {
    Object.assign(figures, charts);
    Object.keys(charts).forEach(show);
  }

  // Callback of the store "figures" (app/dashtop/ui/callbacks.py).
  function drawFigures({ version, charts, since }) {
    dashtop.storeDelta.setVersion("figures", version);
    draw(charts);
    writeSince(since);
  }

  // Graphs become plots when plotly.js is loaded, which may be after the first figures.
  function listen() {
    for (const plot of plots()) {
      if (plot.dataset.hasListeners || !plot.on) continue;
      plot.dataset.hasListeners = "true";
      plot.on("plotly_hover", (event) => movePointer(plot, event.points[0].x));
      plot.on("plotly_unhover", () => movePointer(plot, null));
      plot.on("plotly_afterplot", restorePointer);
      plot.on("plotly_relayout", zoomIn);
      plot.on("plotly_doubleclick", resetZoom);
    }
  }

  // --- pointer ------------------------------------------------------------------------------------------------

  // Plotly also reports hovers that we cause: only the chart under the mouse moves the pointer of the others.
  function movePointer(source, time) {
    if (pointerTime === time || (time !== null && !source.matches(":hover"))) return;
    pointerTime = time;
    for (const plot of plots()) {
      if (plot === source || !plot.offsetParent || !internals.hasAxes(plot)) continue;
      if (time === null) internals.hidePointer(plot);
      else internals.showPointer(plot, time);
    }
  }

  // A redrawn chart shows what is under the mouse, but reports no hover.
  function restorePointer() {
    const source = pointerTime && plots().find((plot) => plot.matches(":hover"));
    const time = source ? internals.pointerTime(source) : null;
    if (time === null) return;
    pointerTime = null;
    movePointer(source, time);
  }

  // --- zoom ---------------------------------------------------------------------------------------------------

  // Plotly reports what its axis shows: times of the chosen zone.
  function zoomIn(change) {
    const [start, end] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (start === undefined || end === undefined) return;
    const edges = [start, end].map((edge) => times.fromWall(String(edge)));
    if (edges.every(Number.isFinite)) settings.setSpan(...edges);
  }

  const resetZoom = () => settings.setSpan(null);

  document.addEventListener("click", (event) => {
    if (event.target.closest("#zoom-reset")) resetZoom();
    const item = event.target.closest("[data-line]");
    if (!item) return;
    const chart = item.closest(".panel").querySelector("[id^='chart-']").id;
    const line = `${chart} ${item.dataset.line}`;
    if (!hidden.delete(line)) hidden.add(line);
    item.setAttribute("aria-pressed", String(!hidden.has(line)));
    show(chart);
  });

  dashtop.painters.push(listen);
  dashtop.charts = {
    draw,
    redraw() {
      Object.keys(figures).forEach(show);
      writeSince(newestSince);
    },
    zoom: settings.span,
  };
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, draw_figures: drawFigures };
})();
