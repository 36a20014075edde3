// What this reader has chosen. Read before anything is painted; the address beats what was stored, and both are
// outside input: a value that is not one of ours is as good as none. All values are words; lists are joined by commas.
(function () {
  "use strict";

  const KEY = "dashtop.settings";
  const VERSION = 2;
  const root = document.documentElement;
  const listeners = [];

  const oneOf = (...words) => (value) => words.includes(value);
  const like = (pattern) => (value) => pattern.test(value);
  const ids = like(/^[a-z0-9-]{1,40}(,[a-z0-9-]{1,40}){0,40}$/);

  // What each field may be, and what it is where nobody has chosen: "" leaves it to the server.
  const FIELDS = {
    view: [oneOf("single", "compare"), "single"],
    gpu: [like(/^[\w-]{1,64}$/), ""],
    range: [(value) => root.dataset.ranges.split(" ").includes(value), root.dataset.range],
    interval: [oneOf("0.5", "1", "2", "5"), ""],
    theme: [oneOf("system", "light", "dark"), "system"],
    temperature: [oneOf("C", "F"), "C"],
    memory: [oneOf("GiB", "GB"), "GiB"],
    order: [ids, ""],
    hidden: [ids, ""],
  };
  const NAMES = Object.keys(FIELDS);
  // What a link is about stands in it even where it is the default: the one who opens it may have stored another.
  const IN_EVERY_LINK = ["view", "gpu", "range"];

  // An iframe shows what its address says, and leaves no trace in the reader's own settings.
  const embedded = root.dataset.embed !== undefined;

  function valid(found) {
    const known = NAMES.filter((name) => found[name] !== undefined && found[name] !== null);
    return Object.fromEntries(known.map((name) => [name, String(found[name])]).filter(([name, value]) => FIELDS[name][0](value)));
  }

  // Version 1 kept the theme under a key of its own, and left GPU and range to Dash: '["chosen", "default"]'.
  function readVersion1(storage) {
    const found = { theme: storage.getItem("dashtop.theme") };
    for (const [name, id] of [["gpu", "gpu-selector"], ["range", "time-range"]]) {
      found[name] = window.dashtop.internals.readPersisted(storage, id);
    }
    return found;
  }

  function stored() {
    if (embedded) return {};
    try {
      const text = window.localStorage.getItem(KEY);
      return valid((text ? JSON.parse(text) : readVersion1(window.localStorage)) || {});
    } catch {
      return {}; // forbidden in some iframes; or not JSON
    }
  }

  function addressed() {
    return valid(Object.fromEntries(new URLSearchParams(window.location.search)));
  }

  const defaults = Object.fromEntries(NAMES.map((name) => [name, FIELDS[name][1]]));
  const chosen = { ...defaults, ...stored(), ...addressed() };
  if (embedded) chosen.view = root.dataset.embed === "compare" ? "compare" : "single";
  const shown = {}; // what is seen without having been chosen

  function save() {
    if (embedded) return;
    try {
      window.localStorage.setItem(KEY, JSON.stringify({ version: VERSION, ...chosen }));
    } catch {
      // the choice then lasts as long as the page, and in its address
    }
  }

  function address() {
    if (embedded) return;
    const url = new URL(window.location.href);
    for (const name of NAMES) {
      const value = chosen[name] || shown[name] || "";
      if (value && (value !== defaults[name] || IN_EVERY_LINK.includes(name))) url.searchParams.set(name, value);
      else url.searchParams.delete(name);
    }
    if (url.href !== window.location.href) window.history.replaceState(window.history.state, "", url);
  }

  function apply() {
    root.dataset.view = chosen.view;
  }

  function changed(names) {
    apply();
    address();
    listeners.forEach((listener) => listener(names));
  }

  function set(changes) {
    const names = NAMES.filter((name) => name in changes && changes[name] !== chosen[name]);
    if (names.length === 0) return;
    for (const name of names) chosen[name] = changes[name];
    save();
    changed(names);
  }

  apply();

  // The theme is the reader's, and changes in all open tabs at once; what is looked at is each tab's own.
  window.addEventListener("storage", (event) => {
    const { theme } = event.key === KEY ? stored() : {};
    if (!theme || theme === chosen.theme) return;
    chosen.theme = theme;
    changed(["theme"]);
  });

  window.dashtop.state = {
    get: (name) => chosen[name],
    list: (name) => chosen[name].split(",").filter(Boolean),
    set,
    reset: () => set({ ...defaults, view: chosen.view, gpu: chosen.gpu, range: chosen.range }),
    // The address names what is seen, be it chosen or not.
    shows(seen) {
      Object.assign(shown, seen);
      address();
    },
    onChange: (listener) => listeners.push(listener),
  };
})();
