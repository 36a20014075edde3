// Connects the controls of the page with the settings: view, GPU, time range, units, and the order of panels.
// assets/settings-store.js keeps the settings in the browser's storage and in the address.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { panelOrder, settings } = dashtop;
  const { write } = dashtop.parts;
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);
  const CONTROLS = {
    range: "time-range",
    view: "view-mode",
    interval: "update-interval",
    temperature: "temperature-unit",
    memory: "memory-unit",
    bars: "bar-colours",
    tz: "time-zone",
  };

  let devices = [];
  let paintedDevices = "";
  let shownGpu = null;
  let shownRange = null;
  let started = false;

  // --- controls -----------------------------------------------------------------------------------------------

  function showSettings(names) {
    if (names.some((name) => ["range", "from", "to"].includes(name))) showRange();
    for (const name of names) {
      if (!(name in CONTROLS) || name === "range") continue;
      setProps(CONTROLS[name], { value: settings.get(name) || (name === "interval" ? dashtop.viewRequest.serverInterval() : null) });
    }
    if (names.includes("interval")) setProps("tick", { interval: Math.round(dashtop.viewRequest.intervalSeconds() * 1000) });
  }

  // No range is pressed while another span is shown.
  function showRange() {
    shownRange = settings.span() ? null : settings.get("range");
    setProps(CONTROLS.range, { value: shownRange });
  }

  // Callback of Dash for changed controls. The first call, at the start, applies the stored settings to the controls.
  function applyControls(gpu, range, mode, interval, temperature, memory, tz, bars) {
    if (!started) {
      started = true;
      showSettings(Object.keys(CONTROLS));
      panelOrder.apply();
      return;
    }
    const changes = { view: mode, temperature, memory, tz, bars };
    if (range && range !== shownRange) {
      shownRange = range;
      Object.assign(changes, { range, from: "", to: "" });
    }
    if (interval !== (settings.get("interval") || dashtop.viewRequest.serverInterval())) changes.interval = interval;
    const device = devices.find(({ index }) => String(index) === gpu);
    if (device && device.index !== shownGpu) changes.gpu = device.uuid;
    settings.set(changes);
  }

  // Callback of Dash: opens the settings, or closes them if the other button was clicked.
  function toggleSettings() {
    return window.dash_clientside.callback_context.triggered_id === "settings-button";
  }

  settings.onChange((names) => {
    showSettings(names);
    if (names.includes("page")) dashtop.repaint(); // without waiting for the server, which may be away
    if (["temperature", "memory", "bars"].some((name) => names.includes(name))) {
      dashtop.repaint();
      dashtop.charts.redraw();
    }
    if (names.some((name) => ["page", "view", "gpu", "range", "from", "to", "interval", "hidden"].includes(name))) dashtop.polling.requestNow();
  });

  // --- GPUs ---------------------------------------------------------------------------------------------------

  const matchesName = ({ index, uuid }, name) => name === String(index) || name.startsWith(uuid);

  // Rebuilds the list only if it has changed: it may be open.
  function paintGpuSelector(snapshot) {
    const shown = JSON.stringify([snapshot.devices, snapshot.gpu]);
    if (shown === paintedDevices) return;
    paintedDevices = shown;
    devices = snapshot.devices;
    shownGpu = snapshot.gpu;
    const options = devices.map(({ index, name, uuid }) => ({ label: `${index}: ${name} · ${uuid}`, value: String(index) }));
    setProps("gpu-selector", { options, value: String(snapshot.gpu) });
    const device = devices.find(({ index }) => index === snapshot.gpu);
    settings.setShown({ gpu: device && devices.length > 1 ? device.uuid : "" });
    showMissingGpu(device);
  }

  // The setting is kept until the user changes it: a GPU that returns is shown again.
  function showMissingGpu(device) {
    const wanted = settings.get("gpu");
    const note = document.getElementById("gpu-gone");
    const missing = Boolean(device && wanted && !matchesName(device, wanted));
    write(note.querySelector("span"), missing ? `GPU ${wanted} not found. Showing GPU ${device.index}, ${device.name}.` : "");
    note.hidden = !missing;
    const ofEmbed = document.querySelector("[data-gpu-gone]");
    if (ofEmbed) write(ofEmbed, missing ? `GPU ${wanted} not found` : "");
  }

  function useShownGpu() {
    const device = devices.find(({ index }) => index === shownGpu);
    settings.set({ gpu: device.uuid });
    showMissingGpu(device);
  }

  // Shows one GPU, in the GPU view.
  dashtop.openGpu = function (wanted) {
    const device = devices.find(({ index }) => index === Number(wanted));
    if (device) settings.set({ page: "gpus", view: "single", gpu: device.uuid });
  };

  dashtop.painters.push(paintGpuSelector);

  // --- panels -------------------------------------------------------------------------------------------------

  function addPanelRow(list, [id, title], position, count) {
    const row = document.createElement("li");
    row.dataset.panel = id;
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !panelOrder.isHidden(id) });
    const name = document.createElement("span");
    name.textContent = title;
    label.append(box, name);
    const grip = document.createElement("span");
    grip.className = "drag-handle";
    row.append(grip, label);
    for (const [by, word] of [[-1, "up"], [1, "down"]]) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: `move-button ${word}` });
      button.dataset.by = String(by);
      button.ariaLabel = `Move ${title} ${word}`;
      button.disabled = position + by < 0 || position + by >= count;
      row.append(button);
    }
    list.append(row);
  }

  function listPanels(list) {
    const titles = new Map(JSON.parse(list.dataset.panels));
    return panelOrder.sort(titles.keys()).map((id) => [id, titles.get(id)]);
  }

  function fillPanelList(list) {
    const panels = listPanels(list);
    list.replaceChildren();
    panels.forEach((panel, position) => addPanelRow(list, panel, position, panels.length));
  }

  const findPanelLists = () => [...document.querySelectorAll("[data-panels]")];

  // Dash adds the content of the modal when it is opened.
  new MutationObserver(() => findPanelLists().filter((list) => !list.firstChild).forEach(fillPanelList)).observe(document.body, { childList: true });
  settings.onChange((names) => {
    if (names.includes("order") || names.includes("hidden")) findPanelLists().forEach(fillPanelList);
  });

  const movePanel = (list, id, to) => panelOrder.move(id, listPanels(list).map(([each]) => each), to);

  const findRow = (event) => event.target.closest("[data-panels] > li");

  document.addEventListener("click", (event) => {
    if (event.target.closest("#settings-reset")) settings.reset();
    if (event.target.closest("#gpu-gone-keep")) useShownGpu();
    const button = event.target.closest("[data-panels] .move-button");
    if (!button) return;
    const row = findRow(event);
    const list = row.parentElement;
    movePanel(list, row.dataset.panel, [...list.children].indexOf(row) + Number(button.dataset.by));
    // The list was rebuilt: return the keyboard focus to the button.
    const again = list.querySelector(`[data-panel="${row.dataset.panel}"]`);
    const next = again.querySelector(`.move-button[data-by="${button.dataset.by}"]:enabled`) || again.querySelector(".move-button:enabled");
    if (next) next.focus();
  });

  document.addEventListener("change", (event) => {
    const row = findRow(event);
    if (!row) return;
    panelOrder.setHidden(row.dataset.panel, !event.target.checked);
    document.querySelector(`[data-panel="${row.dataset.panel}"] input`).focus();
  });

  // Pointer events, because HTML drag and drop does not support touch.
  let dragged = null;

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches("[data-panels] .drag-handle") || event.button) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    dragged = findRow(event);
    dragged.classList.add("is-dragged");
  });
  // Moves the other rows past the dragged one: a row that is removed, even for a moment, loses the pointer.
  document.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    const above = () => event.clientY < dragged.getBoundingClientRect().top && dragged.previousElementSibling;
    const below = () => event.clientY > dragged.getBoundingClientRect().bottom && dragged.nextElementSibling;
    while (above()) dragged.after(above());
    while (below()) dragged.before(below());
    dragged.scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("lostpointercapture", () => {
    if (!dragged) return;
    const { parentElement: list, dataset } = dragged;
    const to = list ? [...list.children].indexOf(dragged) : -1;
    dragged.classList.remove("is-dragged");
    dragged = null;
    if (list && listPanels(list)[to][0] !== dataset.panel) movePanel(list, dataset.panel, to);
  });

  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, apply_controls: applyControls, toggle_settings: toggleSettings };
})();
