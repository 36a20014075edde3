// The pages: all are in one document, of which one is shown. Links work without loading, and in a new tab.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings } = dashtop;
  const root = document.documentElement;
  const pages = root.dataset.pages.split(" ");

  const style = document.createElement("style");
  style.textContent = pages.map((page) => `html:not([data-embed], [data-page="${page}"]) [data-page-view="${page}"]{display:none!important}`).join("");
  document.head.append(style);

  function markCurrent() {
    for (const link of document.querySelectorAll("[data-page-link]")) {
      if (link.dataset.pageLink === root.dataset.page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  // The first page is about several GPUs. The server says which page to land on, unless it has not looked yet.
  function land(snapshot) {
    if (!root.dataset.landing) {
      root.dataset.landing = snapshot.devices.length > 1 ? pages[0] : "gpus";
      settings.applyView();
      dashtop.polling.requestNow();
    }
    settings.setShown({ page: root.dataset.page });
    markCurrent();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-page-link]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    settings.set({ page: link.dataset.pageLink });
  });

  settings.onChange((names) => {
    if (!names.includes("page")) return;
    markCurrent();
    window.scrollTo(0, 0);
  });
  dashtop.painters.push(land);
})();
