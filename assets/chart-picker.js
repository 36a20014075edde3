// "Add chart": every stored metric can be charted. The chosen ones are a setting, in the order in which they were added.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { charts, painters, parts, settings } = dashtop;
  const MAX_CHARTS = 12;
  let dialog = null;
  let metrics = null;

  function listMetrics() {
    const section = document.getElementById("charts-more");
    if (!metrics && section) metrics = JSON.parse(section.dataset.metrics);
    return metrics || [];
  }

  // --- cards --------------------------------------------------------------------------------------------------------

  function buildCard(grid, before, metric) {
    const card = document.createElement("div");
    card.className = "card panel chart-card is-added";
    card.id = `panel-${metric.id}`;
    const header = parts.make("div", "card-header", card);
    parts.make("h3", "card-title", header, metric.title).dataset.tip = metric.help;
    const remove = parts.make("button", "remove-chart", header);
    remove.type = "button";
    remove.ariaLabel = `Remove ${metric.title}`;
    remove.dataset.key = metric.key;
    const chart = parts.make("div", "chart", card);
    chart.tabIndex = 0;
    chart.setAttribute("role", "group");
    chart.setAttribute("aria-roledescription", "chart");
    chart.dataset.title = metric.title;
    const plot = parts.make("div", "added-plot", chart);
    plot.id = metric.id;
    plot.dataset.added = "";
    parts.make("div", "", plot);
    grid.insertBefore(card, before);
  }

  function arrange() {
    const before = document.getElementById("charts-more");
    if (!before) return;
    const wanted = settings.list("charts");
    const known = listMetrics().filter(({ key }) => wanted.includes(key));
    for (const card of document.querySelectorAll(".chart-card.is-added")) {
      if (known.some(({ id }) => card.id === `panel-${id}`)) continue;
      charts.forget(card.id.replace("panel-", ""));
      card.remove();
    }
    for (const key of wanted.slice(0, MAX_CHARTS)) {
      const metric = known.find((each) => each.key === key);
      if (metric && !document.getElementById(`panel-${metric.id}`)) buildCard(before.parentElement, before, metric);
    }
  }

  // --- picker -------------------------------------------------------------------------------------------------------

  function buildDialog() {
    dialog = parts.make("dialog", "table-dialog picker", document.body);
    const header = parts.make("div", "dialog-header", dialog);
    parts.make("h2", "", header, "Add chart").id = "picker-title";
    const close = parts.make("button", "btn", header, "Done");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-labelledby", "picker-title");
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    const search = parts.make("input", "form-control filter", dialog);
    Object.assign(search, { type: "search", placeholder: "Search metrics", ariaLabel: "Search metrics" });
    const list = parts.make("ul", "picker-list", dialog);
    search.addEventListener("input", () => fill(list, search.value));
    list.addEventListener("change", (event) => {
      const { key } = event.target.dataset;
      const others = settings.list("charts").filter((each) => each !== key);
      settings.set({ charts: (event.target.checked ? [...others, key] : others).slice(-MAX_CHARTS).join() });
    });
  }

  function fill(list, text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = settings.list("charts");
    list.replaceChildren();
    for (const { key, title, help, unit } of listMetrics()) {
      const all = `${title} ${key} ${help} ${unit}`.toLowerCase();
      if (!words.every((word) => all.includes(word))) continue;
      const label = parts.make("label", "", parts.make("li", "", list));
      const box = parts.make("input", "", label);
      Object.assign(box, { type: "checkbox", checked: chosen.includes(key) });
      box.dataset.key = key;
      parts.make("span", "picker-title", label, `${key.startsWith("gpu.") ? "" : "Host: "}${title}${unit ? ` (${unit})` : ""}`);
      parts.make("span", "picker-help", label, help);
    }
    if (!list.firstChild) parts.make("li", "picker-empty", list, "No metric has these words in its name.");
  }

  document.addEventListener("click", (event) => {
    const remove = event.target.closest(".remove-chart");
    if (remove) {
      settings.set({ charts: settings.list("charts").filter((key) => key !== remove.dataset.key).join() });
      document.getElementById("add-chart").focus();
    }
    if (!event.target.closest("#add-chart")) return;
    if (!dialog) buildDialog();
    const search = dialog.querySelector("input[type=search]");
    search.value = "";
    fill(dialog.querySelector("ul"), "");
    dialog.showModal();
    search.focus();
  });
  settings.onChange((names) => {
    if (!names.includes("charts")) return;
    arrange();
    dashtop.polling.requestNow();
  });
  painters.push(arrange);
})();
