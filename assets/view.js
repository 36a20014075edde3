// What this browser looks at, as it is sent with each request; and where the server is.
(function () {
  "use strict";

  // Dash loads plotly.js when the first chart is there, from where this says: a bundle of a quarter of the size.
  Object.defineProperty(window, "_dashPlotlyJSURL", {
    get: () => document.documentElement.dataset.plotly,
    set: () => {},
  });

  const dashtop = window.dashtop;
  const chosen = { gpu: 0, range: "1h" };
  let width = 0;

  // Rounded, so that a window that is being dragged does not ask for new charts at every pixel.
  function chartWidth() {
    const widths = [...document.querySelectorAll(".chart")].map((chart) => chart.clientWidth);
    return Math.max(100, Math.round((Math.max(0, ...widths) - 60) / 25) * 25);
  }

  function config() {
    return JSON.parse(document.getElementById("_dash-config").textContent);
  }

  function choose(gpu, range) {
    const index = Number(gpu);
    const changed = chosen.gpu !== index || chosen.range !== range;
    if (chosen.range !== range) dashtop.plots.forget();
    chosen.gpu = index;
    chosen.range = range;
    return changed;
  }

  // A panel that is embedded alone asks for nothing but itself.
  function seen() {
    const { embed, view } = document.documentElement.dataset;
    if (embed === undefined) return { view: view || "single" };
    return { view: embed === "compare" ? "compare" : "single", only: embed };
  }

  function current() {
    width = chartWidth();
    return {
      gpu: chosen.gpu,
      range: chosen.range,
      theme: dashtop.theme.resolved(),
      width,
      zoom: dashtop.plots.zoom(),
      trail: dashtop.trail(),
      shown: [...document.querySelectorAll(".panel[id]:not(.gpu-card)")].filter((panel) => panel.offsetParent).map((panel) => panel.id),
      held: dashtop.held.tags(),
      ...seen(),
      ...dashtop.compare.held,
    };
  }

  let settling = null;
  window.addEventListener("resize", () => {
    clearTimeout(settling);
    settling = setTimeout(() => {
      if (chartWidth() !== width) dashtop.ask();
    }, 250);
  });
  dashtop.theme.onChange(() => dashtop.ask());

  // Looks at one GPU, wherever that was asked for.
  function open(gpu) {
    document.documentElement.dataset.view = "single";
    window.dash_clientside.set_props("gpu-selector", { value: String(gpu) });
    dashtop.ask();
  }

  dashtop.view = {
    open,
    choose,
    current,
    intervalSeconds: () => Number(document.querySelector(".app").dataset.interval),
    url: (path) => config().requests_pathname_prefix + path,
  };
})();
