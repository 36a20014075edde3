// The charts: figures and their versions, one zoom for all of them, and lines that stay hidden when new figures arrive.
// assets/chart-cursor.js draws the cursor, assets/chart-table.js the table.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings, times, units, parts } = dashtop;
  const touchScreen = window.matchMedia("(pointer: coarse)");
  const figures = {};
  const listeners = []; // functions of the id of a chart with a new figure
  const PLOT_OPTIONS = { displayModeBar: false, responsive: true, showTips: false, scrollZoom: false, doubleClick: false };
  let newestRecorded = null;

  // Hidden lines are in the address: "chart~metric".
  const isHidden = (chart, metric) => settings.list("lines").includes(`${chart}~${metric}`);

  const plots = () => [...document.querySelectorAll(".js-plotly-plot")];

  // Plotly shows numbers on a time axis in the browser's zone, and texts as they are. From a start and a step it cannot
  // know that daylight saving time begins or ends in between.
  function convertTimes(figure) {
    const { range } = figure.layout.xaxis;
    if (!range) return figure;
    const changes = times.hasClockChange(...range);
    const isBrowserZone = range.every((ms) => times.offset(ms) === -60_000 * new Date(ms).getTimezoneOffset());
    if (isBrowserZone && !changes) return figure;
    const toShown = isBrowserZone ? (ms) => ms : times.toWall;
    const convert = (trace) => {
      if (!changes) return { ...trace, x0: toShown(trace.x0) };
      const moments = units.decodeArray(trace.y).map((_, at) => trace.x0 + at * trace.dx);
      return { ...trace, x: moments.map(toShown), x0: undefined, dx: undefined };
    };
    const layout = { ...figure.layout, xaxis: { ...figure.layout.xaxis, range: range.map(toShown) } };
    const onTimeAxis = (shape) => (shape.xref || "x") === "x" && typeof shape.x0 === "number";
    layout.shapes = (layout.shapes || []).map((shape) => (onTimeAxis(shape) ? { ...shape, x0: toShown(shape.x0), x1: toShown(shape.x1) } : shape));
    return { data: figure.data.map(convert), layout };
  }

  function show(chart) {
    if (!figures[chart]) return;
    const figure = convertTimes(units.convertFigure(figures[chart]));
    const data = figure.data.map((trace) => ({ ...trace, visible: !isHidden(chart, trace.legendgroup) }));
    // On a touch screen a finger that moves over a chart scrolls the page.
    const layout = touchScreen.matches ? { ...figure.layout, dragmode: false } : figure.layout;
    plotFigure(chart, { data, layout });
    writeLegend(chart, data);
    listeners.forEach((listener) => listener(chart));
  }

  // The charts of the page are components of Dash; those that a user adds are plain elements.
  function plotFigure(chart, figure) {
    const element = document.getElementById(chart);
    if (chart.startsWith("chart-added-")) {
      // A figure may arrive after its chart was removed.
      if (element && window.Plotly) window.Plotly.react(element.firstElementChild, figure.data, figure.layout, PLOT_OPTIONS);
    } else window.dash_clientside.set_props(chart, { figure });
  }

  // Legends of layers that only the figure knows. Process names are untrusted: they are written as text.
  function writeLegend(chart, data) {
    const list = document.querySelector(`[data-legend="${chart}"]`);
    if (!list) return;
    const named = data.filter((trace) => trace.meta && trace.meta.label);
    parts.fit(list, named.length, (parent) => parts.make("span", "legend-item", parent));
    named.forEach((trace, position) => {
      parts.write(list.children[position], trace.meta.label);
      list.children[position].style.setProperty("--series", trace.line.color);
    });
  }

  function formatSpan(ms) {
    const minutes = Math.max(1, Math.round(ms / 60_000));
    if (minutes < 120) return `${minutes} min`;
    return minutes < 2880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} d`;
  }

  // "10 min of 24 h recorded" of a history that is younger than its range.
  function writeRecorded(recorded) {
    newestRecorded = recorded;
    const range = document.querySelector(`#time-range input[value="${settings.get("range")}"] + label`);
    const text = recorded && range && !settings.span() ? `${formatSpan(Date.now() - recorded)} of ${range.textContent} recorded` : "";
    for (const element of document.querySelectorAll("[data-since]")) parts.write(element, text);
  }

  function draw(charts) {
    Object.assign(figures, charts);
    Object.keys(charts).forEach(show);
  }

  // Callback of the store "figures" (app/dashtop/ui/callbacks.py).
  function drawFigures({ versions, charts, recorded }) {
    for (const [chart, version] of Object.entries(versions)) dashtop.storeDelta.setVersion(chart, version);
    draw(charts);
    if (recorded !== undefined) writeRecorded(recorded); // figures of other data than the history have none
  }

  // Graphs become plots when plotly.js is loaded, which may be after the first figures.
  function listen() {
    for (const plot of plots()) {
      if (plot.dataset.hasListeners || !plot.on) continue;
      plot.dataset.hasListeners = "true";
      plot.on("plotly_relayout", zoomIn);
      plot.on("plotly_doubleclick", resetZoom);
    }
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
    const chart = chartOf(item);
    const line = `${chart}~${item.dataset.line}`;
    const others = settings.list("lines").filter((each) => each !== line);
    settings.set({ lines: (isHidden(chart, item.dataset.line) ? others : [...others, line]).join() });
  });

  const chartOf = (item) => item.closest(".panel").querySelector("[id^='chart-']").id;

  function markLegend() {
    for (const item of document.querySelectorAll("[data-line]")) {
      const pressed = String(!isHidden(chartOf(item), item.dataset.line));
      if (item.getAttribute("aria-pressed") !== pressed) item.setAttribute("aria-pressed", pressed);
    }
  }

  settings.onChange((names) => {
    if (!names.includes("lines")) return;
    markLegend();
    Object.keys(figures).forEach(show);
  });

  dashtop.painters.push(listen, markLegend);
  dashtop.charts = {
    draw,
    redraw() {
      Object.keys(figures).forEach(show);
      writeRecorded(newestRecorded);
    },
    show,
    figures: () => figures,
    // The figure of a chart as the server has sent it: in the units of the server, times in epoch milliseconds.
    figure: (chart) => figures[chart],
    // The lines of a chart: [{meta, colour, x0, dx, rows: [mean, lowest, highest][]}].
    lines: (chart) => readLines(figures[chart]).filter(({ metric }) => !isHidden(chart, metric)),
    forget(chart) {
      delete figures[chart];
      dashtop.storeDelta.forget(chart);
    },
    onDraw: (listener) => listeners.push(listener),
    resetZoom,
    zoom: settings.span,
  };

  // --- values -------------------------------------------------------------------------------------------------

  // Lowest and highest values come with the trace, [mean, low, high], or are the edges of its band: the two traces
  // before it, which begin with the first value.
  function readRows(trace, index, data) {
    if (trace.customdata) return units.decodeRows(trace.customdata);
    const means = units.decodeArray(trace.y);
    if (!trace.meta.band) return means.map((mean) => [mean, mean, mean]);
    const [low, high] = data.slice(index - 2, index);
    const [lowest, highest] = [low, high].map((edge) => units.decodeArray(edge.y));
    const offset = Math.round((low.x0 - trace.x0) / trace.dx);
    return means.map((mean, at) => [mean, lowest[at - offset] ?? mean, highest[at - offset] ?? mean]);
  }

  const decoded = new WeakMap(); // a figure is decoded once, when it is first pointed at

  function readLines(figure) {
    if (!figure) return [];
    if (!decoded.has(figure)) {
      const lines = figure.data
        .map((trace, index) => [trace, index])
        .filter(([trace]) => trace.meta && trace.meta.label)
        .map(([trace, index]) => ({
          meta: trace.meta,
          metric: trace.legendgroup,
          colour: trace.line.color,
          x0: trace.x0,
          dx: trace.dx,
          known: units.decodeArray(trace.y).map(Number.isFinite),
          rows: readRows(trace, index, figure.data),
        }));
      decoded.set(figure, lines);
    }
    return decoded.get(figure);
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, draw_figures: drawFigures };
})();
