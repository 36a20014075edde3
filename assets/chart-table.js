// A chart as a table, in a dialog: newest first, one row for each bucket.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { charts, parts, times } = dashtop;
  const { formatRow } = dashtop.chartCursor;
  let dialog = null;

  function build() {
    dialog = parts.make("dialog", "table-dialog", document.body);
    const header = parts.make("div", "dialog-header", dialog);
    parts.make("h2", "", header).id = "chart-table-title";
    const close = parts.make("button", "btn", header, "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-labelledby", "chart-table-title");
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    const scroll = parts.make("div", "table-scroll", dialog);
    scroll.tabIndex = 0;
    parts.make("table", "chart-table", scroll);
  }

  function fill(table, lines) {
    table.replaceChildren();
    const head = parts.make("tr", "", parts.make("thead", "", table));
    parts.make("th", "", head, "Time").scope = "col";
    for (const { meta } of lines) parts.make("th", "numeric", head, `${meta.label}, mean (min–max)`).scope = "col";
    const body = parts.make("tbody", "", table);
    const [{ x0, dx, rows }] = lines;
    for (let at = rows.length - 1; at >= 0; at -= 1) {
      if (!lines.some((line) => line.known[at])) continue;
      const row = parts.make("tr", "", body);
      parts.make("th", "", row, times.moment(x0 + at * dx)).scope = "row";
      for (const line of lines) parts.make("td", "numeric", row, line.known[at] ? formatRow(line.rows[at], line.meta) : "–");
    }
  }

  function open(chart) {
    const lines = charts.lines(chart);
    if (lines.length === 0) return;
    if (!dialog) build();
    const { title } = document.getElementById(chart).closest(".chart").dataset;
    parts.write(dialog.querySelector("h2"), `${title}, ${times.zoneName()}`);
    fill(dialog.querySelector("table"), lines);
    dialog.showModal();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-table]");
    if (button) open(button.closest(".panel").querySelector("[id^='chart-']").id);
  });

  dashtop.chartTable = { open };
})();
