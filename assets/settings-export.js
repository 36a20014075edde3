// The export menu: its links are built when the menu is opened, from the GPU, time range and lines on screen.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings } = dashtop;
  const findMenu = () => document.querySelector(".menu:has(#export-button)");
  let gpu = null;

  // Returns the metrics of the visible lines; none in the view of all GPUs, which has no charts.
  function findVisibleMetrics() {
    const items = [...document.querySelectorAll(".legend-item[aria-pressed='true']")].filter((item) => item.offsetParent);
    const added = [...document.querySelectorAll(".remove-chart")].filter((button) => button.offsetParent);
    return [...new Set([...items.map((item) => item.dataset.line), ...added.map((button) => button.dataset.key)])];
  }

  // Adds the time range to `query`; returns its description.
  function addTimeRange(query) {
    const zoom = dashtop.charts.zoom();
    if (!zoom) {
      query.set("range", settings.get("range"));
      return `Last ${document.querySelector("#time-range .btn-check:checked + .segment").textContent}`;
    }
    query.set("start", String(zoom[0]));
    query.set("end", String(zoom[1]));
    return zoom.map((edge) => `${dashtop.times.date(edge)} ${dashtop.times.time(edge)}`).join(" to ");
  }

  // The page of one GPU exports that GPU, the others all of them.
  function showsAllGpus() {
    const { gpu: gpus, page, view } = document.documentElement.dataset;
    return gpus === "many" && !(page === "gpus" && view === "single");
  }

  function updateLinks() {
    const query = new URLSearchParams();
    const when = addTimeRange(query);
    const ofAll = showsAllGpus();
    if (ofAll) query.set("gpu", "all");
    else if (gpu !== null) query.set("gpu_id", String(gpu));
    const lines = findVisibleMetrics();
    const all = document.getElementById("export-all");
    all.disabled = lines.length === 0;
    if (!all.checked && lines.length) query.set("metrics", lines.join());
    const what = query.has("metrics") ? `${lines.length} ${lines.length === 1 ? "metric" : "metrics"}` : "all metrics";
    dashtop.parts.write(findMenu().querySelector("[data-export-summary]"), `${when}, ${ofAll ? "all GPUs and the host" : gpu === null ? "the host" : `GPU ${gpu} and the host`}, ${what}`);
    for (const link of findMenu().querySelectorAll("[data-format]")) {
      query.set("format", link.dataset.format);
      link.href = `${dashtop.viewRequest.url("api/v1/system/export")}?${query}`;
    }
  }

  function closeMenu() {
    if (findMenu()) findMenu().open = false;
  }

  dashtop.painters.push((snapshot) => {
    gpu = snapshot.gpu;
    if (findMenu() && findMenu().open) updateLinks();
  });
  document.addEventListener("toggle", (event) => event.target === findMenu() && findMenu().open && updateLinks(), true);
  document.addEventListener("change", (event) => event.target.id === "export-all" && updateLinks());
  document.addEventListener("click", (event) => {
    if (event.target.closest(".menu") !== findMenu() || event.target.closest("[data-format]")) closeMenu();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !findMenu() || !findMenu().open) return;
    closeMenu();
    document.getElementById("export-button").focus();
  });
})();
