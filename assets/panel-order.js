// The order of panels and which of them are hidden: two settings, which the settings dialog (assets/settings.js) and the
// page itself (assets/arrange.js) change.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings } = dashtop;
  const style = document.createElement("style");
  document.head.append(style);

  // A style sheet, because inline styles would be lost when Dash renders again. While the user arranges panels, those
  // that are hidden can be seen.
  function apply() {
    const order = settings.list("order").map((id, place) => `#${id}{order:${place - 100}}`);
    const hidden = settings.list("hidden").map((id) => `html:not([data-arrange]) #${id}`);
    style.textContent = order.join("") + (hidden.length ? `${hidden.join()}{display:none!important}` : "");
  }

  // Sorts the ids of panels in the user's order; panels that were never moved follow in the order of the page.
  function sort(ids) {
    const places = settings.list("order");
    const place = (id) => (places.includes(id) ? places.indexOf(id) : places.length);
    return [...ids].sort((one, other) => place(one) - place(other));
  }

  // Moves a panel to a place among the panels of its section, whose ids are `ids`. Others, such as charts that the user
  // has added, which the settings dialog does not list, keep their places.
  function move(id, ids, to) {
    const names = sort(ids).filter((each) => each !== id);
    names.splice(Math.max(0, to), 0, id);
    const moved = settings.list("order").map((each) => (ids.includes(each) ? names.shift() : each));
    settings.set({ order: [...moved, ...names].join() });
  }

  const isHidden = (id) => settings.list("hidden").includes(id);

  function setHidden(id, hides) {
    const others = settings.list("hidden").filter((each) => each !== id);
    settings.set({ hidden: (hides ? [...others, id] : others).join() });
  }

  settings.onChange((names) => {
    if (names.includes("order") || names.includes("hidden")) apply();
  });
  dashtop.panelOrder = { apply, sort, move, isHidden, setHidden, reset: () => settings.set({ order: "", hidden: "" }) };
})();
