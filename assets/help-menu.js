// The '?' menu in the header: its links, and how it is closed (app/dashtop/ui/help_menu.py).
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const findMenu = () => document.querySelector(".help-menu");

  function close() {
    if (findMenu()) findMenu().open = false;
  }

  document.addEventListener("toggle", (event) => {
    if (event.target !== findMenu() || !event.target.open) return;
    for (const link of event.target.querySelectorAll("[data-path]")) link.href = dashtop.viewRequest.url(link.dataset.path);
  }, true);
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".help-menu")) close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !findMenu() || !findMenu().open) return;
    close();
    document.getElementById("help-button").focus();
  });
})();
