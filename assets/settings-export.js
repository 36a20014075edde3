// The export menu: links to files of what is shown, made when the menu is opened.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { state } = dashtop;
  const menu = () => document.querySelector(".menu");
  let gpu = null;

  // The lines that the charts on screen show; none in the compare view, which has no charts.
  function metrics() {
    const items = [...document.querySelectorAll(".legend-item[aria-pressed='true']")].filter((item) => item.offsetParent);
    return [...new Set(items.map((item) => item.dataset.line))];
  }

  function stretch(query) {
    const zoom = dashtop.charts.zoom();
    if (!zoom) {
      query.set("range", state.get("range"));
      return `Last ${document.querySelector("#time-range .btn-check:checked + .segment").textContent}`;
    }
    query.set("start", String(zoom[0]));
    query.set("end", String(zoom[1]));
    const [start, end] = zoom.map((edge) => new Date(edge).toLocaleString([], { dateStyle: "short", timeStyle: "medium", hourCycle: "h23" }));
    return `${start} to ${end}`;
  }

  function fill() {
    const query = new URLSearchParams();
    const when = stretch(query);
    if (gpu !== null) query.set("gpu_id", String(gpu));
    const lines = metrics();
    const all = document.getElementById("export-all");
    all.disabled = lines.length === 0;
    if (!all.checked && lines.length) query.set("metrics", lines.join());
    const what = query.has("metrics") ? `${lines.length} ${lines.length === 1 ? "metric" : "metrics"}` : "all metrics";
    dashtop.parts.write(menu().querySelector("[data-export-summary]"), `${when}, ${gpu === null ? "the host" : `GPU ${gpu} and the host`}, ${what}`);
    for (const link of menu().querySelectorAll("[data-format]")) {
      query.set("format", link.dataset.format);
      link.href = `${dashtop.viewRequest.url("api/v1/system/export")}?${query}`;
    }
  }

  function close() {
    if (menu()) menu().open = false;
  }

  dashtop.painters.push((frame) => {
    gpu = frame.gpu;
    if (menu() && menu().open) fill();
  });
  document.addEventListener("toggle", (event) => event.target === menu() && menu().open && fill(), true);
  document.addEventListener("change", (event) => event.target.id === "export-all" && fill());
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".menu") || event.target.closest("[data-format]")) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu() || !menu().open) return;
    close();
    document.getElementById("export-button").focus();
  });
})();
