// The theme: applied before anything is painted, so that no other theme flashes up.
(function () {
  "use strict";

  const CHOICES = ["system", "light", "dark"];
  const root = document.documentElement;
  const { settings } = window.dashtop;
  const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const hasForcedColors = window.matchMedia("(forced-colors: active)");
  const listeners = [];

  // "light" or "dark": the choice, or what the system prefers. Charts must fit a background that the system forces.
  function current() {
    const choice = settings.get("theme");
    if (choice !== "system" && !hasForcedColors.matches) return choice;
    return systemIsDark.matches ? "dark" : "light";
  }

  function apply() {
    root.dataset.themeChoice = settings.get("theme");
    root.dataset.bsTheme = current();
    listeners.forEach((listener) => listener());
  }

  apply();
  // Paper is light. Charts keep the colours of the page: they are drawn by the server.
  window.addEventListener("beforeprint", () => (root.dataset.bsTheme = "light"));
  window.addEventListener("afterprint", () => (root.dataset.bsTheme = current()));
  systemIsDark.addEventListener("change", apply);
  hasForcedColors.addEventListener("change", apply);
  settings.onChange((names) => names.includes("theme") && apply());
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme-toggle")) return;
    settings.set({ theme: CHOICES[(CHOICES.indexOf(settings.get("theme")) + 1) % CHOICES.length] });
  });

  window.dashtop.theme = { current, onChange: (listener) => listeners.push(listener) };
})();
