// Popovers with help, reasons and truncated names: on hover, on focus and on tap, for every element with `data-tip`.
// Escape closes. In each group (a panel, the toolbar) one of those that are no controls is a tab stop; arrow keys move to
// the others. The page has no `title` attributes: neither fingers nor the keyboard reach them.
(function () {
  "use strict";

  const { parts } = window.dashtop;
  const HOVER_DELAY_MS = 300;
  const HIDE_DELAY_MS = 200;
  const MARGIN_PX = 8;
  const CONTROLS = "button, a, input, select, summary, label";
  const GROUPS = ".panel, .toolbar, .brand";
  const popover = parts.make("div", "popover-tip", document.body);
  popover.id = "popover";
  popover.popover = "manual"; // above dialogs
  popover.setAttribute("role", "tooltip");
  let anchor = null;
  let timer = null;

  const isCut = (element) => element.scrollWidth > element.clientWidth;

  // A name that may be truncated explains itself where it is not truncated.
  function hasMore(element) {
    const { tip } = element.dataset;
    return Boolean(tip) && (tip !== element.textContent.trim() || isCut(element) || isCut(element.parentElement));
  }

  const tipOf = (element) => (element && element.closest ? element.closest("[data-tip]") : null);

  // Where screen readers find it: in the landmark or dialog of the anchor. Of an embedded page only the panel is visible.
  function hostOf(element) {
    const around = document.documentElement.dataset.embed ? ".panel, .compact" : "main, header, footer";
    return element.closest("dialog, .modal-content") || element.closest(around) || document.body;
  }

  function isFocused() {
    const focused = document.activeElement;
    return Boolean(anchor) && (focused === anchor || (focused.matches(CONTROLS) && focused.contains(anchor)));
  }

  // Below the anchor, or above it where it would leave the screen or cover a control: it stays while the pointer is on it.
  function place() {
    const box = anchor.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = popover;
    const left = Math.min(Math.max(box.left + box.width / 2 - width / 2, MARGIN_PX), window.innerWidth - width - MARGIN_PX);
    const below = box.bottom + 6;
    const above = box.top - height - 6;
    const fits = below + height + 2 < window.innerHeight;
    const isBetterAbove = above >= 0 && coversControl(left, below, width, height) && !coversControl(left, above, width, height);
    popover.style.left = `${Math.round(left)}px`;
    popover.style.top = `${Math.round(fits && !isBetterAbove ? below : above)}px`;
  }

  function coversControl(left, top, width, height) {
    return [...document.querySelectorAll(CONTROLS)].some((control) => {
      // Closed menus have a place, too.
      if (control.contains(anchor) || !control.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true })) return false;
      const box = control.getBoundingClientRect();
      return box.left < left + width && box.right > left && box.top < top + height && box.bottom > top;
    });
  }

  function show(element) {
    hide();
    if (!element.isConnected || !hasMore(element)) return;
    anchor = element;
    parts.write(popover, element.dataset.tip);
    const host = hostOf(element);
    if (popover.parentElement !== host) host.append(popover);
    popover.showPopover();
    element.setAttribute("aria-describedby", popover.id);
    place();
  }

  function hide() {
    clearTimeout(timer);
    if (!anchor) return;
    anchor.removeAttribute("aria-describedby");
    anchor = null;
    if (popover.isConnected) popover.hidePopover();
  }

  // The pointer may move onto the popover, over what is between (WCAG 1.4.13).
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    clearTimeout(timer);
    const element = tipOf(event.target);
    if (popover.contains(event.target) || element === anchor) return;
    if (element) timer = setTimeout(() => show(element), HOVER_DELAY_MS);
    else if (!isFocused()) timer = setTimeout(hide, HIDE_DELAY_MS);
  });
  // A control shows its own help, or that of the text in it.
  document.addEventListener("focusin", (event) => {
    const { target } = event;
    const element = target.dataset.tip ? target : target.matches(CONTROLS) && target.querySelector("[data-tip]");
    if (element && target.matches(":focus-visible")) show(element);
    else hide();
  });
  // A finger on the head of a column sorts by it, and explains it.
  document.addEventListener("click", (event) => {
    if (popover.contains(event.target) && !window.getSelection().isCollapsed) return; // its text is being selected
    const element = tipOf(event.target);
    const control = event.target.closest(`${CONTROLS}, [data-open-gpu]`);
    if (element && (!control || (event.pointerType === "touch" && control.closest("th")))) show(element);
    else hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && anchor) {
      hide();
      event.stopPropagation();
    } else if (event.target.dataset.tip && !event.target.matches(CONTROLS)) moveFocus(event);
  });
  window.addEventListener("scroll", hide, { passive: true, capture: true });

  // --- tab stops ----------------------------------------------------------------------------------------------------

  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const isStop = (element) => element.offsetParent && !element.closest(CONTROLS) && hasMore(element);
  const findStops = (group) => [...group.querySelectorAll("[data-tip]")].filter(isStop);

  function moveFocus(event) {
    const group = event.target.closest(GROUPS);
    const by = STEPS[event.key];
    if (!group || !by) return;
    event.preventDefault();
    const stops = findStops(group);
    const next = stops[(stops.indexOf(event.target) + by + stops.length) % stops.length];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function placeTabStops() {
    for (const group of document.querySelectorAll(GROUPS)) {
      const stop = group.querySelector('[data-tip][tabindex="0"]');
      if (stop && (stop === document.activeElement || isStop(stop))) continue;
      const first = [...group.querySelectorAll("[data-tip]")].find(isStop);
      if (stop) stop.tabIndex = -1;
      if (first) first.tabIndex = 0;
    }
    if (anchor) parts.write(popover, anchor.dataset.tip || "");
  }

  // Help changes seldom, and a tick has no time to spare.
  setInterval(placeTabStops, 2000);
})();
