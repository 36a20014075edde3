// "Arrange": panels of the page of GPUs are dragged to another place, or hidden, on the page itself: by mouse, finger or
// keyboard. Order and hidden panels are those of the settings dialog (assets/panel-order.js).
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { panelOrder, painters, settings } = dashtop;
  const { make, write } = dashtop.parts;
  const root = document.documentElement;
  const PANELS = ".page-gpus section .grid > .panel[id^='panel-']";
  const EDGE_PX = 80; // a panel dragged so near to an edge of the window scrolls the page
  const SCROLL_PX = 12; // per frame
  const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

  let bar = null;
  let opener = null;
  let drag = null; // {panel, x, y, over: the panel under the pointer after the last move, order: the setting before}

  const isActive = () => root.dataset.arrange !== undefined;
  const titleOf = (panel) => panel.querySelector(".card-title").textContent;
  const findPanels = () => [...document.querySelectorAll(PANELS)].filter((panel) => panel.querySelector(".card-title"));
  const isShown = (id) => Boolean(document.getElementById(id).offsetParent);

  // The ids of the panels of a section, in the order of the page.
  function idsBeside(panel) {
    return findPanels().filter((each) => each.parentElement === panel.parentElement).map(({ id }) => id);
  }

  const shownBeside = (panel) => panelOrder.sort(idsBeside(panel)).filter(isShown);

  // --- moving and hiding --------------------------------------------------------------------------------------------

  // Puts a panel into the place of another one of its section; the panels in between move up.
  function moveTo(panel, other) {
    const ids = idsBeside(panel);
    const order = panelOrder.sort(ids);
    const isLater = order.indexOf(other.id) > order.indexOf(panel.id);
    const rest = order.filter((id) => id !== panel.id);
    panelOrder.move(panel.id, ids, rest.indexOf(other.id) + Number(isLater));
    announcePlace(panel);
  }

  function moveBy(panel, step) {
    const shown = shownBeside(panel);
    const other = shown[shown.indexOf(panel.id) + step];
    if (other) moveTo(panel, document.getElementById(other));
    panel.scrollIntoView({ block: "nearest" });
  }

  function announcePlace(panel) {
    const shown = shownBeside(panel);
    say(`${titleOf(panel)}: place ${shown.indexOf(panel.id) + 1} of ${shown.length}`);
  }

  // A chart that the user has added is removed instead of hidden.
  const removeButtonOf = (panel) => panel.querySelector(".remove-chart");

  function removeChart(panel) {
    const title = titleOf(panel);
    const shown = shownBeside(panel);
    const next = document.getElementById(shown[shown.indexOf(panel.id) + 1] || shown[shown.indexOf(panel.id) - 1]);
    const { key } = removeButtonOf(panel).dataset;
    settings.set({ charts: settings.list("charts").filter((each) => each !== key).join() });
    say(`${title} is removed`);
    if (next) next.querySelector(".drag-handle").focus();
  }

  function toggleHidden(panel) {
    const hides = !panelOrder.isHidden(panel.id);
    panelOrder.setHidden(panel.id, hides);
    say(`${titleOf(panel)} ${hides ? "is hidden" : "is shown"}`);
    paintCovers();
  }

  const say = (text) => write(bar.querySelector("[role=status]"), text);

  // --- what lies over each panel ------------------------------------------------------------------------------------

  function addButton(parent, className, label, text = "") {
    const button = make("button", className, parent, text);
    button.type = "button";
    button.ariaLabel = label;
    return button;
  }

  function buildCover(panel) {
    const title = titleOf(panel);
    const cover = make("div", "arrange-cover", panel);
    const tools = make("div", "arrange-tools", cover);
    addButton(tools, "drag-handle", `Move ${title} with the arrow keys`);
    make("span", "arrange-title", tools, title);
    const buttons = make("div", "arrange-buttons", tools);
    addButton(buttons, "move-button earlier", `Move ${title} earlier`).dataset.step = "-1";
    addButton(buttons, "move-button later", `Move ${title} later`).dataset.step = "1";
    addButton(buttons, "btn btn-sm arrange-hide", "");
  }

  // Also after Dash has rendered a panel again.
  function paintCovers() {
    if (!isActive()) return;
    for (const panel of findPanels()) {
      if (!panel.querySelector(":scope > .arrange-cover")) buildCover(panel);
      const isHidden = panelOrder.isHidden(panel.id);
      panel.classList.toggle("is-hidden-panel", isHidden);
      const button = panel.querySelector(".arrange-hide");
      const text = removeButtonOf(panel) ? "Remove" : isHidden ? "Show" : "Hide";
      write(button, text);
      button.ariaLabel = `${text} ${titleOf(panel)}`;
    }
  }

  // --- dragging: the other panels make room while the pointer moves ---------------------------------------------------

  function startDrag(event) {
    const cover = event.target.closest(".arrange-cover");
    if (!cover || event.button || event.target.closest("button:not(.drag-handle)")) return;
    // A finger on the rest of a panel scrolls the page.
    if (event.pointerType === "touch" && !event.target.closest(".drag-handle")) return;
    if (event.pointerType !== "touch") event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    drag = { panel: cover.parentElement, x: event.clientX, y: event.clientY, over: null, order: settings.get("order") };
    drag.panel.classList.add("is-dragged");
    requestAnimationFrame(scrollAtEdge);
  }

  function followPointer() {
    const target = document.elementFromPoint(drag.x, drag.y);
    const over = target ? target.closest(PANELS) : null;
    // After a move another panel is under the pointer: without this the two would change places again and again.
    if (over === drag.over) return;
    drag.over = over;
    if (over && over !== drag.panel && over.parentElement === drag.panel.parentElement) {
      moveTo(drag.panel, over);
      const now = document.elementFromPoint(drag.x, drag.y);
      drag.over = now ? now.closest(PANELS) : null;
    }
  }

  function scrollAtEdge() {
    if (!drag) return;
    const top = document.querySelector(".header").getBoundingClientRect().bottom + EDGE_PX;
    const bottom = window.innerHeight - EDGE_PX;
    const by = drag.y < top ? -SCROLL_PX : drag.y > bottom ? SCROLL_PX : 0;
    if (by) {
      window.scrollBy(0, by);
      followPointer();
    }
    requestAnimationFrame(scrollAtEdge);
  }

  function endDrag(isCancelled) {
    if (!drag) return;
    drag.panel.classList.remove("is-dragged");
    const { order } = drag;
    drag = null;
    if (isCancelled) settings.set({ order });
  }

  // --- beginning and end ----------------------------------------------------------------------------------------------

  function buildBar() {
    bar = make("div", "arrange-bar", document.body);
    bar.setAttribute("role", "region");
    bar.ariaLabel = "Arrange panels";
    make("span", "arrange-help", bar, "Drag panels, or use their buttons and the arrow keys.");
    make("span", "visually-hidden", bar).setAttribute("role", "status");
    addButton(bar, "btn", "Reset order and hidden panels", "Reset").dataset.arrangeReset = "";
    addButton(bar, "btn btn-primary", "Finish arranging", "Done").dataset.arrangeDone = "";
  }

  function start(button) {
    opener = button;
    if (!bar) buildBar();
    // From the settings dialog, which any page can open.
    window.dash_clientside.set_props("settings-modal", { is_open: false });
    settings.set({ page: "gpus", view: "single" });
    root.dataset.arrange = "";
    paintCovers();
    dashtop.polling.requestNow(); // hidden panels are shown, and lack their data
    const first = findPanels().find((panel) => panel.offsetParent && panel.getBoundingClientRect().bottom > 0);
    if (first) first.querySelector(".drag-handle").focus({ preventScroll: true });
  }

  function finish() {
    if (!isActive()) return;
    endDrag(false);
    delete root.dataset.arrange;
    for (const cover of document.querySelectorAll(".arrange-cover")) cover.remove();
    for (const panel of findPanels()) panel.classList.remove("is-hidden-panel");
    dashtop.polling.requestNow();
    if (opener && opener.isConnected && opener.offsetParent) opener.focus();
  }

  document.addEventListener("click", (event) => {
    const starter = event.target.closest("[data-arrange-start]");
    if (starter) start(starter);
    if (event.target.closest("[data-arrange-done]")) finish();
    if (event.target.closest("[data-arrange-reset]")) {
      panelOrder.reset();
      say("Order and hidden panels are reset");
      paintCovers();
    }
    const cover = event.target.closest(".arrange-cover");
    const button = cover && event.target.closest("button");
    if (!button) return;
    if (button.dataset.step) moveBy(cover.parentElement, Number(button.dataset.step));
    if (button.matches(".arrange-hide")) (removeButtonOf(cover.parentElement) ? removeChart : toggleHidden)(cover.parentElement);
  });

  document.addEventListener("keydown", (event) => {
    if (!isActive()) return;
    if (event.key === "Escape") {
      if (drag) endDrag(true);
      else finish();
    }
    const cover = event.target.closest(".arrange-cover");
    if (!cover || !event.target.matches(".drag-handle") || !(event.key in STEPS)) return;
    event.preventDefault(); // the page would scroll
    moveBy(cover.parentElement, STEPS[event.key]);
  });

  document.addEventListener("pointerdown", startDrag);
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    Object.assign(drag, { x: event.clientX, y: event.clientY });
    followPointer();
  });
  document.addEventListener("lostpointercapture", () => endDrag(false));
  settings.onChange((names) => {
    if (names.includes("page") || names.includes("view")) if (root.dataset.page !== "gpus" || root.dataset.view !== "single") finish();
  });
  painters.push(paintCovers);
})();
