// What this browser looks at, as it is sent with each request; and where the server is.
(function () {
  "use strict";

  // Dash loads plotly.js when the first chart is there, from where this says: a bundle of a quarter of the size.
  Object.defineProperty(window, "_dashPlotlyJSURL", {
    get: () => document.documentElement.dataset.plotly,
    set: () => {},
  });

  const dashtop = window.dashtop;
  const { state } = dashtop;
  let width = 400; // where no chart is on screen: that of the last one that was

  // One step of time for all charts: the narrowest's, or a wide one would have them all drawn anew more often.
  // Rounded, so that a window that is being dragged does not ask for new charts at every pixel.
  function chartWidth() {
    const widths = [...document.querySelectorAll(".chart")].map((chart) => chart.clientWidth).filter(Boolean);
    return widths.length === 0 ? width : Math.max(100, Math.round((Math.min(...widths) - 60) / 25) * 25);
  }

  function config() {
    return JSON.parse(document.getElementById("_dash-config").textContent);
  }

  const ownInterval = () => String(Number(document.querySelector(".app").dataset.interval));
  const intervalSeconds = () => Number(state.get("interval") || ownInterval());

  function current() {
    width = chartWidth();
    return {
      gpu: state.get("gpu"),
      range: state.get("range"),
      view: document.documentElement.dataset.view,
      interval: intervalSeconds(),
      theme: dashtop.theme.resolved(),
      width,
      zoom: dashtop.plots.zoom(),
      trail: dashtop.trail(),
      shown: [...document.querySelectorAll(".panel[id]:not(.gpu-card)")].filter((panel) => panel.offsetParent).map((panel) => panel.id),
      held: dashtop.held.tags(),
      only: document.documentElement.dataset.embed,
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

  dashtop.view = {
    current,
    intervalSeconds,
    ownInterval,
    url: (path) => config().requests_pathname_prefix + path,
  };
})();
