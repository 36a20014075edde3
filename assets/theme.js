// Loaded in <head>, before anything is painted: a stored theme must not flash the other one first.
(function () {
  "use strict";

  const CHOICES = ["system", "light", "dark"];
  const root = document.documentElement;
  const { state } = window.dashtop;
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  function resolved() {
    const choice = state.get("theme");
    if (choice !== "system") return choice;
    return systemDark.matches ? "dark" : "light";
  }

  function apply() {
    root.dataset.themeChoice = state.get("theme");
    root.dataset.bsTheme = resolved();
    listeners.forEach((listener) => listener());
  }

  apply();
  systemDark.addEventListener("change", apply);
  state.onChange((names) => names.includes("theme") && apply());
  document.addEventListener("click", (event) => {
    if (!event.target.closest("#theme-toggle")) return;
    state.set({ theme: CHOICES[(CHOICES.indexOf(state.get("theme")) + 1) % CHOICES.length] });
  });

  window.dashtop.theme = { resolved, onChange: (listener) => listeners.push(listener) };
})();
