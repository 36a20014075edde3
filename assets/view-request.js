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

  // A redraw costs the browser about 30 ms a chart. So charts near the screen are drawn once for what is looked at, and
  // again only on the screen; those far from it are not drawn at all.
  const watched = new WeakSet();
  const drawnFor = new WeakMap(); // for which view a chart was requested last
  const nearby = watch("30% 0px", 0.3);
  const onScreen = watch("0px", 0);
  let shown = null; // the ids of the last request; null if the page has changed since

  // The charts within a margin around the screen, in parts of its height: a set that follows scrolling.
  function watch(rootMargin, margin) {
    const charts = new Set();
    const observer = new IntersectionObserver(
      (entries) => {
        let isNew = false;
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting && !charts.has(target)) isNew = true;
          if (isIntersecting) charts.add(target);
          else charts.delete(target);
        }
        if (isNew) dashtop.polling.requestNow();
      },
      { rootMargin },
    );
    const begin = (chart) => {
      observer.observe(chart);
      const box = chart.getBoundingClientRect();
      if (box.top < (1 + margin) * window.innerHeight && box.bottom > -margin * window.innerHeight) charts.add(chart);
    };
    return { begin, has: (chart) => charts.has(chart) };
  }

  function isWanted(panel, view) {
    if (!panel.classList.contains("chart-card")) return true;
    if (!watched.has(panel)) {
      watched.add(panel);
      nearby.begin(panel);
      onScreen.begin(panel);
    }
    if (!onScreen.has(panel) && !(nearby.has(panel) && drawnFor.get(panel) !== view)) return false;
    drawnFor.set(panel, view);
    return true;
  }

  function visiblePanels(view) {
    const panels = [...document.querySelectorAll(".panel[id]:not(.gpu-card), section[id]")];
    return panels.filter((panel) => panel.offsetParent && isWanted(panel, view)).map((panel) => panel.id);
  }

  const serverInterval = () => String(Number(document.querySelector(".app").dataset.interval));
  const intervalSeconds = () => Number(settings.get("interval") || serverInterval());

  function build() {
    width = chartWidth();
    const view = {
      gpu: settings.get("gpu"),
      range: settings.get("range"),
      theme: dashtop.theme.current(),
      width,
      zoom: dashtop.charts.zoom(),
      options: settings.options(),
    };
    const visible = visiblePanels(JSON.stringify(view));
    shown = new Set(visible);
    return { ...view, interval: intervalSeconds(), visible_panels: visible, versions: dashtop.storeDelta.versions() };
  }

  let resizeTimer = null;
  window.addEventListener("resize", () => {
    clearTimeout(resizeTimer);
    resizeTimer = setTimeout(() => {
      if (chartWidth() !== width) dashtop.polling.requestNow();
    }, RESIZE_DELAY_MS);
  });
  dashtop.theme.onChange(() => dashtop.polling.requestNow());
  settings.onChange(() => (shown = null));

  dashtop.viewRequest = {
    build,
    intervalSeconds,
    // Whether a panel is shown, as the last request says: asking the browser would lay out the page again.
    isShown: (panel) => (shown ? shown.has(panel.id) : Boolean(panel.offsetParent)),
    serverInterval,
    url: (path) => dashtop.internals.pathPrefix() + path,
  };
})();
