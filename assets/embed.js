// Messages between an embedded panel and the portal around it (docs/portal.md). They hold no measured values.
//
// to the portal:    {type: "dashtop:height", panel, height}   the panel's height in CSS pixels, at each change
// from the portal:  {type: "dashtop:theme", theme}            "light", "dark" or "system"
(function () {
  "use strict";

  const panel = document.documentElement.dataset.embed;
  if (window.parent === window) return;

  let posted = 0;

  // Charts fill the frame, so they have no height of their own.
  function postHeight() {
    const shown = [...document.querySelectorAll(".app .panel, .app .compact")].filter((element) => element.offsetParent);
    const height = Math.ceil(Math.max(0, ...shown.map((element) => element.getBoundingClientRect().bottom + window.scrollY)));
    if (height === 0 || height === posted || panel.startsWith("chart-")) return;
    posted = height;
    window.parent.postMessage({ type: "dashtop:height", panel, height }, "*");
  }

  window.addEventListener("message", (event) => {
    const { type, theme } = event.data || {};
    if (event.source !== window.parent || type !== "dashtop:theme") return;
    if (["light", "dark", "system"].includes(theme)) window.dashtop.settings.set({ theme });
  });
  document.addEventListener("DOMContentLoaded", () => new ResizeObserver(postHeight).observe(document.body));
})();
