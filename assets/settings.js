// What the controls say becomes the state, and the state is what the controls say: view, GPU, range, units, panels.
// (The state itself, with storage and address, is assets/settings-store.js.)
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { state } = dashtop;
  const { write } = dashtop.parts;
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);
  const CONTROLS = {
    range: "time-range",
    view: "view-mode",
    interval: "update-interval",
    temperature: "temperature-unit",
    memory: "memory-unit",
  };

  let devices = [];
  let offered = "";
  let shownGpu = null;
  let started = false;

  // --- controls -----------------------------------------------------------------------------------------------

  function showChosen(names) {
    for (const name of names) {
      if (!(name in CONTROLS)) continue;
      setProps(CONTROLS[name], { value: state.get(name) || (name === "interval" ? dashtop.viewRequest.serverInterval() : null) });
    }
    if (names.includes("interval")) setProps("tick", { interval: Math.round(dashtop.viewRequest.intervalSeconds() * 1000) });
  }

  // Called by Dash when a control has changed, and once at the start: then what was stored or linked to is put there.
  function chosen(gpu, range, mode, interval, temperature, memory) {
    if (!started) {
      started = true;
      showChosen(Object.keys(CONTROLS));
      arrange();
      return;
    }
    const changes = { range, view: mode, temperature, memory };
    if (interval !== (state.get("interval") || dashtop.viewRequest.serverInterval())) changes.interval = interval;
    const device = devices.find(({ index }) => String(index) === gpu);
    if (device && device.index !== shownGpu) changes.gpu = device.uuid;
    state.set(changes);
  }

  // Called by Dash: the dialog is opened by one button and closed by the other.
  function settings() {
    return window.dash_clientside.callback_context.triggered_id === "settings-button";
  }

  state.onChange((names) => {
    showChosen(names);
    if (names.includes("range")) dashtop.charts.clearZoom();
    if (names.includes("order") || names.includes("hidden")) arrange();
    if (names.includes("temperature") || names.includes("memory")) {
      dashtop.repaint();
      dashtop.charts.redraw();
    }
    if (names.some((name) => ["view", "gpu", "range", "interval", "hidden"].includes(name))) dashtop.polling.requestNow();
  });

  // --- GPUs ---------------------------------------------------------------------------------------------------

  const goesBy = ({ index, uuid }, name) => name === String(index) || name.startsWith(uuid);

  // Only when it changes: an open list of choices must not be rebuilt under the reader's pointer.
  function offerDevices(frame) {
    const known = JSON.stringify([frame.devices, frame.gpu]);
    if (known === offered) return;
    offered = known;
    devices = frame.devices;
    shownGpu = frame.gpu;
    const options = devices.map(({ index, name, uuid }) => ({ label: `${index}: ${name} · ${uuid}`, value: String(index) }));
    setProps("gpu-selector", { options, value: String(frame.gpu) });
    const device = devices.find(({ index }) => index === frame.gpu);
    state.shows({ gpu: device && devices.length > 1 ? device.uuid : "" });
    sayWhatIsGone(device);
  }

  // The choice is kept until the reader says otherwise: a GPU that comes back is shown again.
  function sayWhatIsGone(device) {
    const wanted = state.get("gpu");
    const note = document.getElementById("gpu-gone");
    const gone = Boolean(device && wanted && !goesBy(device, wanted));
    write(note.querySelector("span"), gone ? `GPU ${wanted} not found. Showing GPU ${device.index}, ${device.name}.` : "");
    note.hidden = !gone;
  }

  function keepShownGpu() {
    const device = devices.find(({ index }) => index === shownGpu);
    state.set({ gpu: device.uuid });
    sayWhatIsGone(device);
  }

  // Looks at one GPU, wherever that was asked for.
  dashtop.openGpu = function (wanted) {
    const device = devices.find(({ index }) => index === Number(wanted));
    if (device) state.set({ view: "single", gpu: device.uuid });
  };

  dashtop.painters.push(offerDevices);

  // --- panels -------------------------------------------------------------------------------------------------

  const style = document.createElement("style");
  document.head.append(style);

  // Rules, not attributes: they outlast whatever is rendered anew.
  function arrange() {
    const order = state.list("order").map((id, place) => `#${id}{order:${place - 100}}`);
    const hidden = state.list("hidden").map((id) => `#${id}`);
    style.textContent = order.join("") + (hidden.length ? `${hidden.join()}{display:none!important}` : "");
  }

  // Ids in the reader's order: those never moved stay where the page has them, behind those that were.
  function ordered(panels) {
    const places = state.list("order");
    const place = ([id]) => (places.includes(id) ? places.indexOf(id) : places.length);
    return [...panels].sort((one, other) => place(one) - place(other));
  }

  function item(list, [id, title], position, count) {
    const row = document.createElement("li");
    row.dataset.panel = id;
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !state.list("hidden").includes(id) });
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

  const panelsOf = (list) => ordered(JSON.parse(list.dataset.panels));

  function fill(list) {
    const panels = panelsOf(list);
    list.replaceChildren();
    panels.forEach((panel, position) => item(list, panel, position, panels.length));
  }

  const lists = () => [...document.querySelectorAll("[data-panels]")];

  // Dash puts the dialog's content on the page when it is opened.
  new MutationObserver(() => lists().filter((list) => !list.firstChild).forEach(fill)).observe(document.body, { childList: true });
  state.onChange((names) => {
    if (names.includes("order") || names.includes("hidden")) lists().forEach(fill);
  });

  function move(list, id, to) {
    const names = panelsOf(list).map(([each]) => each).filter((each) => each !== id);
    names.splice(Math.max(0, to), 0, id);
    const others = lists().filter((each) => each !== list).flatMap((each) => panelsOf(each).map(([name]) => name));
    state.set({ order: [...others, ...names].join() });
  }

  const rowOf = (event) => event.target.closest("[data-panels] > li");

  document.addEventListener("click", (event) => {
    if (event.target.closest("#settings-reset")) state.reset();
    if (event.target.closest("#gpu-gone-keep")) keepShownGpu();
    const button = event.target.closest(".move-button");
    if (!button) return;
    const row = rowOf(event);
    const list = row.parentElement;
    move(list, row.dataset.panel, [...list.children].indexOf(row) + Number(button.dataset.by));
    // The list has been made anew: whoever moves by keyboard goes on from where they were.
    const again = list.querySelector(`[data-panel="${row.dataset.panel}"]`);
    const next = again.querySelector(`.move-button[data-by="${button.dataset.by}"]:enabled`) || again.querySelector(".move-button:enabled");
    if (next) next.focus();
  });

  document.addEventListener("change", (event) => {
    const row = rowOf(event);
    if (!row) return;
    const hidden = state.list("hidden").filter((each) => each !== row.dataset.panel);
    if (!event.target.checked) hidden.push(row.dataset.panel);
    state.set({ hidden: hidden.join() });
    document.querySelector(`[data-panel="${row.dataset.panel}"] input`).focus();
  });

  // Pointer events, since HTML's own dragging knows the mouse alone and no finger.
  let dragged = null;

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches(".drag-handle") || event.button) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    dragged = rowOf(event);
    dragged.classList.add("is-dragged");
  });
  // The others are moved past it: a row that is taken out of the page, if only to be put back, loses the pointer.
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
    if (list && panelsOf(list)[to][0] !== dataset.panel) move(list, dataset.panel, to);
  });

  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, apply_controls: chosen, toggle_settings: settings };
})();
