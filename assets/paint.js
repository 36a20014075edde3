// Paints the live frame. Everything is written as text: process, device and mount names come from outside.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const root = document.documentElement;
  const COLOURS = 8; // of GPUs, in tokens.css

  function write(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function mark(element, name, value) {
    if (value) {
      if (element.dataset[name] !== value) element.dataset[name] = value;
    } else if (name in element.dataset) delete element.dataset[name];
  }

  function level(frame, key) {
    return frame.levels[key] || "";
  }

  function paintValue(element, frame) {
    const { metric, digits, help, shared } = element.dataset;
    const known = frame.values[metric];
    const missing = known === null || known === undefined;
    const { value, symbol } = dashtop.units.shown(missing ? null : known, element.dataset.in);
    write(element, missing ? "N/A" : value.toFixed(Number(digits)));
    if (element.dataset.unit) mark(element, "unit", symbol);
    element.classList.toggle("missing", missing);
    const title = missing ? frame.missing[metric] || "no GPU" : (frame.shared && shared) || help;
    if (shared) element.classList.toggle("shared", !missing && frame.shared);
    if (element.title !== title) element.title = title;
  }

  // What fills a bar is as long as the bar and is moved: that costs no layout, and its end stays round.
  function fill(bar, percent, kind) {
    const known = percent !== null && percent !== undefined;
    const shown = known ? Math.min(Math.max(percent, 0), 100) : 0;
    bar.style.setProperty("--fill", `${(shown - 100).toFixed(1)}%`);
    if (known) bar.setAttribute("aria-valuenow", String(Math.round(shown)));
    else bar.removeAttribute("aria-valuenow");
    bar.classList.toggle("empty", shown === 0);
    mark(bar, "level", kind);
  }

  // Percent of the bar: the value itself, or its share of the metric that stands for a full bar.
  function share(bar, frame) {
    const { bar: key, of, otherwise } = bar.dataset;
    const value = frame.values[key];
    if (!of || value === null || value === undefined) return value;
    const whole = frame.values[of] || otherwise;
    return whole ? (100 * value) / whole : null;
  }

  function make(tag, className, parent) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    parent.append(element);
    return element;
  }

  function fit(list, count, build) {
    while (list.children.length > count) list.lastElementChild.remove();
    while (list.children.length < count) build(list);
  }

  function paintWarning(element, frame) {
    const [severity, message] = frame.warnings[element.dataset.warning] || ["", ""];
    write(element, message);
    element.title = message;
    mark(element, "severity", severity);
  }

  // The host is read on while a driver is silent.
  function oldGpu(frame) {
    return frame.gpu_age > 3 * frame.interval;
  }

  function deviceOf(frame) {
    return frame.devices.find(([index]) => index === frame.gpu);
  }

  function texts(frame) {
    const device = deviceOf(frame);
    const since = frame.since ? new Date(frame.since).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }) : "";
    const notice = frame.notice || { title: "", reason: "", outlook: "" };
    return {
      gpuName: device ? device[1] : "GPU",
      gpuIndex: device ? `GPU ${device[0]}` : "",
      gpuAge: oldGpu(frame) ? `last answer ${Math.round(frame.gpu_age)} s ago` : "",
      since: since && `since ${since}`,
      "notice.title": notice.title,
      "notice.reason": notice.reason,
      "notice.outlook": notice.outlook,
    };
  }

  dashtop.painters = [];

  dashtop.paintValues = function (parent, frame) {
    for (const element of parent.querySelectorAll("[data-metric]")) paintValue(element, frame);
  };

  dashtop.paint = function (frame) {
    if (frame.sequence === null) return;
    root.dataset.gpu = frame.gpu === null ? "none" : frame.devices.length > 1 ? "many" : "one";
    // Without a GPU there is nothing to compare; the choice itself is kept.
    root.dataset.view = frame.gpu === null ? "single" : dashtop.state.get("view");
    root.dataset.simulated = String(frame.simulated);
    root.dataset.gpuOld = String(oldGpu(frame));
    frame.shared = frame.gpu !== null && deviceOf(frame)[3];
    root.dataset.shared = String(frame.shared);
    root.style.setProperty("--gpu", `var(--gpu-${(frame.gpu || 0) % COLOURS})`);
    const words = { ...texts(frame), ...frame.words };
    for (const element of document.querySelectorAll("[data-metric]:not(.of-card, .compact *)")) paintValue(element, frame);
    for (const element of document.querySelectorAll("[data-bar]")) {
      const key = element.dataset.bar;
      fill(element, share(element, frame), level(frame, key));
    }
    for (const element of document.querySelectorAll("[data-warning]")) paintWarning(element, frame);
    for (const element of document.querySelectorAll("[data-text]")) write(element, words[element.dataset.text] || "");
    for (const painter of dashtop.painters) painter(frame);
  };

  dashtop.parts = { write, mark, fill, make, fit };
})();
