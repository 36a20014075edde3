// Paints snapshots: elements say by data attributes which value they show. Names of processes, devices and mounts are
// untrusted, so everything is written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const root = document.documentElement;
  const UTILIZATION = "gpu.utilization.gpu";
  const MIN_BUSY_PERCENT = 95;
  let shown = null; // the last snapshot

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function mark(element, name, value) {
    if (value) {
      if (element.dataset[name] !== value) element.dataset[name] = value;
    } else if (name in element.dataset) delete element.dataset[name];
  }

  function make(tag, className, parent, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  }

  // Adds or removes children until there are `count` of them.
  function fit(list, count, build) {
    while (list.children.length > count) list.lastElementChild.remove();
    while (list.children.length < count) build(list);
  }

  function paintValue(element, snapshot) {
    const { metric, digits, help, shared } = element.dataset;
    const known = snapshot.values[metric];
    const missing = known === null || known === undefined;
    const { value, symbol } = dashtop.units.convert(missing ? null : known, element.dataset.in);
    write(element, missing ? "N/A" : value.toFixed(Number(digits)));
    if (element.dataset.unit) mark(element, "unit", symbol);
    element.classList.toggle("missing", missing);
    mark(element, "tip", missing ? snapshot.missing[metric] || "no GPU" : (snapshot.shared && shared) || help);
    if (shared) element.classList.toggle("shared", !missing && snapshot.shared);
    const optional = element.closest(".optional");
    if (optional && optional.hidden !== missing) optional.hidden = missing;
  }

  // A meter must have a value. Without one the text beside it says all there is.
  function markMeter(bar, percent) {
    if (percent === null) {
      bar.removeAttribute("aria-valuenow");
      bar.setAttribute("aria-hidden", "true");
      return;
    }
    bar.setAttribute("aria-valuenow", String(Math.round(percent)));
    bar.removeAttribute("aria-hidden");
  }

  // The fill has the full length and is moved: that needs no layout, and its end stays round.
  function fill(bar, percent, level) {
    const known = percent !== null && percent !== undefined;
    const clamped = known ? Math.min(Math.max(percent, 0), 100) : 0;
    bar.style.setProperty("--fill", `${(clamped - 100).toFixed(1)}%`);
    if (bar.hasAttribute("role")) markMeter(bar, known ? clamped : null);
    bar.classList.toggle("empty", clamped === 0);
    mark(bar, "level", level);
    mark(bar, "load", dashtop.settings.get("bars") === "load" && known ? findLoad(clamped) : "");
  }

  // With "Bar colours: by load" a bar is green below 70 %, yellow below 85 %, else red.
  function findLoad(percent) {
    if (percent < 70) return "low";
    return percent < 85 ? "medium" : "high";
  }

  // Percent of the bar: the value itself, or its share of the metric that stands for a full bar.
  function barPercent(bar, snapshot) {
    const { bar: key, of, fallback } = bar.dataset;
    const value = snapshot.values[key];
    if (!of || value === null || value === undefined) return value;
    const whole = snapshot.values[of] || fallback;
    return whole ? (100 * value) / whole : null;
  }

  // Beside bars that are coloured by load, more than 95 % utilization is mentioned.
  function findNote(key, snapshot) {
    const isBusy = key === UTILIZATION && snapshot.values[key] > MIN_BUSY_PERCENT && dashtop.settings.get("bars") === "load";
    return isBusy ? { severity: "info", message: "High GPU utilization" } : { severity: "", message: "" };
  }

  function paintWarning(element, snapshot) {
    const key = element.dataset.warning;
    const { severity, message } = snapshot.warnings[key] || findNote(key, snapshot);
    write(element, message);
    mark(element, "tip", message);
    mark(element, "severity", severity);
  }

  // Values of the host are updated while a driver hangs.
  function isGpuStale(snapshot) {
    return snapshot.gpu_age > 3 * snapshot.interval;
  }

  function chosenDevice(snapshot) {
    return snapshot.devices.find((device) => device.index === snapshot.gpu);
  }

  function buildTexts(snapshot) {
    const device = chosenDevice(snapshot);
    const notice = snapshot.notice || { title: "", reason: "", outlook: "" };
    return {
      gpuName: device ? device.name : "GPU",
      gpuIndex: device ? `GPU ${device.index}` : "",
      gpuAge: isGpuStale(snapshot) ? `last answer ${Math.round(snapshot.gpu_age)} s ago` : "",
      "notice.title": notice.title,
      "notice.reason": notice.reason,
      "notice.outlook": notice.outlook,
      ...snapshot.texts,
    };
  }

  function paintValues(parent, snapshot) {
    for (const element of parent.querySelectorAll("[data-metric]")) paintValue(element, snapshot);
  }

  function paintRoot(snapshot) {
    root.dataset.gpu = snapshot.gpu === null ? "none" : snapshot.devices.length > 1 ? "many" : "one";
    // Without a GPU there is nothing to compare; the stored choice stays.
    root.dataset.view = snapshot.gpu === null ? "single" : dashtop.settings.get("view");
    root.dataset.simulated = String(snapshot.simulated);
    root.dataset.gpuOld = String(isGpuStale(snapshot));
    root.dataset.shared = String(snapshot.shared);
  }

  function paint(snapshot) {
    shown = snapshot;
    if (snapshot.sequence === null) return;
    snapshot.shared = snapshot.gpu !== null && chosenDevice(snapshot).shares_host_memory;
    paintRoot(snapshot);
    for (const element of document.querySelectorAll("[data-metric]:not(.gpu-card-value, .compact *)")) paintValue(element, snapshot);
    for (const bar of document.querySelectorAll("[data-bar]")) {
      fill(bar, barPercent(bar, snapshot), snapshot.levels[bar.dataset.bar] || "");
    }
    for (const element of document.querySelectorAll("[data-warning]")) paintWarning(element, snapshot);
    for (const element of document.querySelectorAll("[data-missing-reason]")) write(element, snapshot.missing[element.dataset.missingReason] || "");
    const texts = buildTexts(snapshot);
    for (const element of document.querySelectorAll("[data-text]")) write(element, texts[element.dataset.text] || "");
    for (const painter of dashtop.painters) painter(snapshot);
  }

  // Callback of the store "live" (app/dashtop/ui/callbacks.py).
  function paintLive(live) {
    const snapshot = dashtop.storeDelta.merge(live);
    try {
      paint(snapshot);
    } finally {
      dashtop.polling.accept(snapshot);
    }
  }

  dashtop.painters = []; // functions of a snapshot, of other scripts
  dashtop.parts = { write, mark, fill, make, fit };
  dashtop.paintValues = paintValues;
  dashtop.paintStored = (snapshot) => paint({ ...snapshot, isStored: true });
  dashtop.repaint = () => shown && paint(shown);
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, paint_live: paintLive };
})();
