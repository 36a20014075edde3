// Printing: the charts get the width of a sheet, and a line says of which machine, time and time zone the page is.
// assets/print.css has the rest; the page of usage has rules of its own.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { parts, settings, times } = dashtop;
  const root = document.documentElement;
  let note = null;

  function describe() {
    const host = document.querySelector(".host-name").textContent;
    const latest = dashtop.polling.latest();
    const range = document.querySelector("#time-range .btn-check:checked + .segment");
    const span = settings.span();
    const period = span ? times.span(...span) : range ? `last ${range.textContent}` : "";
    const now = latest ? latest.snapshot.time : Date.now();
    return [host, `${times.date(now)} ${times.time(now)}`, period, times.zoneName()].filter(Boolean).join(" · ");
  }

  function resizeCharts() {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) if (plot.offsetParent && window.Plotly) window.Plotly.Plots.resize(plot);
  }

  window.addEventListener("beforeprint", () => {
    const page = document.querySelector(".page");
    if (root.dataset.page === "usage" || root.dataset.embed !== undefined || !page) return;
    if (!note || !note.isConnected) {
      note = document.createElement("p");
      note.className = "print-note";
      page.prepend(note);
    }
    parts.write(note, describe());
    root.dataset.printing = "";
    resizeCharts();
  });
  window.addEventListener("afterprint", () => {
    if (root.dataset.printing === undefined) return;
    delete root.dataset.printing;
    resizeCharts();
  });
})();
