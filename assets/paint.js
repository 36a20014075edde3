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
    const { metric, digits, help } = element.dataset;
    const value = frame.values[metric];
    const missing = value === null || value === undefined;
    write(element, missing ? "N/A" : value.toFixed(Number(digits)));
    element.classList.toggle("missing", missing);
    const title = missing ? frame.missing[metric] || "no GPU" : help;
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

  function texts(frame) {
    const device = frame.devices.find(([index]) => index === frame.gpu);
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

  let offered = "";

  // Only when it changes: an open list of choices must not be rebuilt under the reader's pointer.
  function offerDevices(frame) {
    const devices = JSON.stringify(frame.devices);
    if (devices === offered) return;
    offered = devices;
    const options = frame.devices.map(([index, name]) => ({ label: `${index}: ${name}`, value: String(index) }));
    const select = document.getElementById("gpu-selector");
    const gone = frame.gpu !== null && !frame.devices.some(([index]) => String(index) === select.value);
    window.dash_clientside.set_props("gpu-selector", gone ? { options, value: String(frame.gpu) } : { options });
  }

  dashtop.painters = [];

  dashtop.paint = function (frame) {
    if (frame.sequence === null) return;
    root.dataset.gpu = frame.gpu === null ? "none" : frame.devices.length > 1 ? "many" : "one";
    root.dataset.simulated = String(frame.simulated);
    root.dataset.gpuOld = String(oldGpu(frame));
    root.style.setProperty("--gpu", `var(--gpu-${(frame.gpu || 0) % COLOURS})`);
    const words = texts(frame);
    for (const element of document.querySelectorAll("[data-metric]:not(.of-card)")) paintValue(element, frame);
    for (const element of document.querySelectorAll("[data-bar]")) {
      const key = element.dataset.bar;
      fill(element, frame.values[key], level(frame, key));
    }
    for (const element of document.querySelectorAll("[data-warning]")) paintWarning(element, frame);
    for (const element of document.querySelectorAll("[data-text]")) write(element, words[element.dataset.text]);
    for (const painter of dashtop.painters) painter(frame);
    offerDevices(frame);
  };

  dashtop.parts = { write, mark, fill };
})();
