// Popovers with help and reasons: on hover, on focus and on tap, for every element with `data-tip`. Escape closes. In each
// panel one of them is a tab stop; arrow keys move to the others.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { parts } = dashtop;
  const HOVER_DELAY_MS = 300;
  const MARGIN_PX = 8;
  const popover = parts.make("div", "popover-tip", document.body);
  popover.id = "popover";
  popover.hidden = true;
  popover.setAttribute("role", "tooltip");
  let anchor = null;
  let timer = null;

  const tipOf = (element) => (element && element.closest ? element.closest("[data-tip]") : null);

  function place() {
    const box = anchor.getBoundingClientRect();
    const width = popover.offsetWidth;
    const left = Math.min(Math.max(box.left + box.width / 2 - width / 2, MARGIN_PX), window.innerWidth - width - MARGIN_PX);
    const below = box.bottom + MARGIN_PX + popover.offsetHeight < window.innerHeight;
    popover.style.left = `${Math.round(left)}px`;
    popover.style.top = `${Math.round(below ? box.bottom + 6 : box.top - popover.offsetHeight - 6)}px`;
  }

  function show(element) {
    clearTimeout(timer);
    if (!element.dataset.tip) return;
    hide();
    anchor = element;
    parts.write(popover, element.dataset.tip);
    popover.hidden = false;
    element.setAttribute("aria-describedby", popover.id);
    place();
  }

  function hide() {
    clearTimeout(timer);
    if (!anchor) return;
    anchor.removeAttribute("aria-describedby");
    anchor = null;
    popover.hidden = true;
  }

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const element = tipOf(event.target);
    if (element === anchor) return;
    clearTimeout(timer);
    if (element) timer = setTimeout(() => show(element), HOVER_DELAY_MS);
    else if (!anchor || document.activeElement !== anchor) hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = tipOf(event.target);
    if (element && element === event.target) show(element);
    else hide();
  });
  document.addEventListener("click", (event) => {
    const element = tipOf(event.target);
    if (element && !event.target.closest("button, a, input, select, summary")) show(element);
    else hide();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && anchor) {
      hide();
      event.stopPropagation();
    } else if (event.target === anchor) moveFocus(event);
  });
  window.addEventListener("scroll", hide, { passive: true, capture: true });

  // --- tab stops ----------------------------------------------------------------------------------------------------

  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const visibleTips = (panel) => [...panel.querySelectorAll("[data-tip]")].filter((each) => each.offsetParent && !each.matches("button"));

  function moveFocus(event) {
    const panel = event.target.closest(".panel");
    const by = STEPS[event.key];
    if (!panel || !by) return;
    event.preventDefault();
    const tips = visibleTips(panel);
    const next = tips[(tips.indexOf(event.target) + by + tips.length) % tips.length];
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  function placeTabStops() {
    for (const panel of document.querySelectorAll(".panel")) {
      const stop = panel.querySelector('[data-tip][tabindex="0"]');
      if (stop && stop.offsetParent) continue;
      const [first] = panel.offsetParent ? visibleTips(panel) : [];
      if (stop) stop.tabIndex = -1;
      if (first) first.tabIndex = 0;
    }
    if (anchor && !popover.hidden) parts.write(popover, anchor.dataset.tip || "");
  }

  // Help changes seldom, and a tick has no time to spare.
  setInterval(placeTabStops, 2000);

  dashtop.popover = { hide };
})();
