// Loaded in <head>, before anything is painted: a stored theme must not flash the other one first.
(function () {
  "use strict";

  const KEY = "dashtop.theme";
  const CHOICES = ["system", "light", "dark"];
  const root = document.documentElement;
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  const listeners = [];

  function stored() {
    try {
      const choice = window.localStorage.getItem(KEY);
      return CHOICES.includes(choice) ? choice : "system";
    } catch {
      return "system"; // storage can be forbidden in an iframe
    }
  }

  let choice = stored();

  function resolved() {
    if (choice !== "system") return choice;
    return systemDark.matches ? "dark" : "light";
  }

  function apply() {
    root.dataset.themeChoice = choice;
    root.dataset.bsTheme = resolved();
    listeners.forEach((listener) => listener());
  }

  function cycle() {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    try {
      window.localStorage.setItem(KEY, choice);
    } catch {
      // the choice then lasts as long as the page
    }
    apply();
  }

  apply();
  systemDark.addEventListener("change", apply);
  window.addEventListener("storage", (event) => {
    if (event.key !== KEY) return;
    choice = stored();
    apply();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#theme-toggle")) cycle();
  });

  window.dashtop = { theme: { resolved, onChange: (listener) => listeners.push(listener) } };
})();
