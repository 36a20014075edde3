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
      const withoutGpu = pages.includes("fleet") ? "fleet" : "gpus";
      root.dataset.landing = snapshot.devices.length > 1 ? pages[0] : snapshot.devices.length ? "gpus" : withoutGpu;
      settings.applyView();
      dashtop.polling.requestNow();
    }
    settings.setShown({ page: root.dataset.page });
    markCurrent();
  }

  const isPlainClick = (event) => !(event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

  // `data-page-link` names a page, `data-go` is an address, `data-open-gpu` the index of a GPU.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-page-link], [data-go], [data-open-gpu]");
    if (!link || !isPlainClick(event) || event.target.closest("[data-watch-gpu], [data-watch-pid]")) return;
    event.preventDefault();
    const { pageLink, go, openGpu } = link.dataset;
    if (openGpu) dashtop.openGpu(openGpu);
    else settings.set(go ? Object.fromEntries(new URLSearchParams(go)) : { page: pageLink });
  });

  settings.onChange((names) => {
    if (!names.includes("page")) return;
    markCurrent();
    window.scrollTo(0, 0);
  });
  dashtop.painters.push(land);
})();
