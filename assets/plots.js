// What the charts do together: one pointer, one zoom, and lines that stay hidden while new figures arrive.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const root = document.documentElement;
  const finger = window.matchMedia("(pointer: coarse)");
  const hidden = new Set(); // "chart metric"
  const figures = {};
  let zoom = null; // [start, end] in epoch ms
  let pointed = null;

  const plots = () => [...document.querySelectorAll(".js-plotly-plot")];

  // The pointer is told the least and the most of each bucket: the two edges of the band, which lie beneath the line.
  function withRange(trace, index, data) {
    if (trace.customdata || !(trace.hovertemplate || "").includes("customdata")) return trace;
    const [low, high] = data.slice(index - 2, index);
    const [least, most] = [low, high].map((edge) => dashtop.units.decoded(edge.y));
    const missed = (low.x0 - trace.x0) / trace.dx; // buckets before the band begins
    const customdata = Array.from({ length: missed + least.length }, (_, at) => [least[at - missed], most[at - missed]]);
    return { ...trace, customdata };
  }

  // From a start and a step Plotly does not know that the viewer's clock is put forward or back on the way.
  function withTimes(trace) {
    const times = Array.from({ length: dashtop.units.decoded(trace.y).length }, (_, at) => trace.x0 + at * trace.dx);
    return { ...trace, x: times, x0: undefined, dx: undefined };
  }

  function changesClock(axis) {
    const [before, after] = (axis.range || []).map((time) => new Date(time).getTimezoneOffset());
    return before !== after;
  }

  function show(chart) {
    if (!figures[chart]) return;
    const figure = dashtop.units.figure(figures[chart]);
    const dated = changesClock(figure.layout.xaxis) ? withTimes : (trace) => trace;
    const data = figure.data
      .map(withRange)
      .map((trace) => ({ ...dated(trace), visible: !hidden.has(`${chart} ${trace.legendgroup}`) }));
    // A finger that moves up the page shall move the page, not zoom.
    const layout = finger.matches ? { ...figure.layout, dragmode: false } : figure.layout;
    window.dash_clientside.set_props(chart, { figure: { data, layout } });
    name(chart, data);
  }

  // The names of what a chart shows, where only the figure knows them: they come from outside, and are written as text.
  function name(chart, data) {
    const list = document.querySelector(`[data-names="${chart}"]`);
    if (!list) return;
    const named = data.filter((trace) => trace.meta);
    dashtop.parts.fit(list, named.length, (parent) => dashtop.parts.make("span", "legend-item", parent));
    named.forEach((trace, position) => {
      dashtop.parts.write(list.children[position], trace.meta);
      list.children[position].style.setProperty("--series", trace.line.color);
    });
  }

  function draw(frame) {
    root.dataset.zoomed = String(zoom !== null);
    for (const [chart, figure] of Object.entries(frame.figures || {})) {
      figures[chart] = figure;
      show(chart);
    }
    plots().forEach(listen);
  }

  function listen(plot) {
    if (plot.dataset.heard || !plot.on) return;
    plot.dataset.heard = "true";
    plot.on("plotly_hover", (event) => point(plot, event.points[0].x));
    plot.on("plotly_unhover", () => point(plot, null));
    plot.on("plotly_afterplot", pointAgain);
    plot.on("plotly_relayout", zoomed);
    plot.on("plotly_doubleclick", unzoom);
  }

  // Plotly announces what it is told to show as well: only the chart under the pointer leads the others.
  function point(leader, time) {
    if (pointed === time || (time !== null && !leader.matches(":hover"))) return;
    pointed = time;
    for (const plot of plots()) {
      if (plot === leader || !plot.offsetParent || !plot._fullLayout || !plot._fullLayout._plots.xy) continue;
      if (time === null) window.Plotly.Fx.unhover(plot);
      else window.Plotly.Fx.hover(plot, { xval: plot._fullLayout.xaxis.d2c(time) }, "xy");
    }
  }

  // A chart that is drawn anew shows what has come under the pointer, and does not announce it.
  function pointAgain() {
    const leader = pointed && plots().find((plot) => plot.matches(":hover"));
    if (!leader || !leader._hoverdata || leader._hoverdata.length === 0) return;
    pointed = null;
    point(leader, leader._hoverdata[0].x);
  }

  // Plotly tells local times, as it shows them.
  function moment(text) {
    return typeof text === "number" ? text : new Date(text.replace(" ", "T")).getTime();
  }

  function zoomed(change) {
    const [start, end] = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (start === undefined || end === undefined) return;
    const edges = [moment(start), moment(end)].map(Math.round);
    if (edges[1] - edges[0] < 2000) edges[1] = edges[0] + 2000;
    if (!edges.every(Number.isFinite)) return;
    zoom = edges;
    dashtop.ask();
  }

  function unzoom() {
    if (zoom === null) return;
    zoom = null;
    dashtop.ask();
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#zoom-reset")) unzoom();
    const item = event.target.closest("[data-line]");
    if (!item) return;
    const chart = item.closest(".panel").querySelector("[id^='chart-']").id;
    const name = `${chart} ${item.dataset.line}`;
    if (!hidden.delete(name)) hidden.add(name);
    item.setAttribute("aria-pressed", String(!hidden.has(name)));
    show(chart);
  });

  dashtop.plots = {
    draw,
    redraw: () => Object.keys(figures).forEach(show),
    zoom: () => zoom,
    forget: () => {
      zoom = null;
    },
  };
})();
