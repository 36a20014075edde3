// What this browser looks at, as it is sent with each request.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings } = dashtop;
  const RESIZE_DELAY_MS = 250;
  let width = 400; // of the charts; while none is visible, that of the last visible ones

  // All charts share one time step. It follows the narrowest chart: a wide one would redraw all of them more often.
  // Rounded, so that dragging the window's edge does not request new charts at every pixel.
  function chartWidth() {
    const widths = [...document.querySelectorAll(".chart")].map((chart) => chart.clientWidth * Number(chart.dataset.density || 1)).filter(Boolean);
    return widths.length === 0 ? width : Math.max(100, Math.round((Math.min(...widths) - 60) / 25) * 25);
  }

  // Charts far from what is on the screen are not drawn: a redraw costs the browser about 30 ms a chart.
  const nearby = new Set();
  const watched = new WeakSet();
  const observer = new IntersectionObserver(
    (entries) => {
      let isNew = false;
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting && !nearby.has(target)) isNew = true;
        if (isIntersecting) nearby.add(target);
        else nearby.delete(target);
      }
      if (isNew) dashtop.polling.requestNow();
    },
    { rootMargin: "30% 0px" },
  );

  function isNearby(panel) {
    if (!panel.classList.contains("chart-card")) return true;
    if (!watched.has(panel)) {
      watched.add(panel);
      observer.observe(panel);
      const box = panel.getBoundingClientRect();
      if (box.top < 1.3 * window.innerHeight && box.bottom > -0.3 * window.innerHeight) nearby.add(panel);
    }
    return nearby.has(panel);
  }

  function visiblePanels() {
    const panels = [...document.querySelectorAll(".panel[id]:not(.gpu-card), section[id]")];
    return panels.filter((panel) => panel.offsetParent && isNearby(panel)).map((panel) => panel.id);
  }

  const serverInterval = () => String(Number(document.querySelector(".app").dataset.interval));
  const intervalSeconds = () => Number(settings.get("interval") || serverInterval());

  function build() {
    width = chartWidth();
    return {
      gpu: settings.get("gpu"),
      range: settings.get("range"),
      interval: intervalSeconds(),
      theme: dashtop.theme.current(),
      width,
      zoom: dashtop.charts.zoom(),
      visible_panels: visiblePanels(),
      options: settings.options(),
      versions: dashtop.storeDelta.versions(),
    };
  }

  let resizeTimer = null;
  window.addEventListener("resize", () => {
    clearTimeout(resizeTimer);
    resizeTimer = setTimeout(() => {
      if (chartWidth() !== width) dashtop.polling.requestNow();
    }, RESIZE_DELAY_MS);
  });
  dashtop.theme.onChange(() => dashtop.polling.requestNow());

  dashtop.viewRequest = {
    build,
    intervalSeconds,
    serverInterval,
    url: (path) => dashtop.internals.pathPrefix() + path,
  };
})();
