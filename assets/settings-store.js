// The settings of this browser: chosen in the page, kept in localStorage and in the address. They are read before
// anything is painted. The address beats the storage. Both are untrusted: an invalid value counts as missing.
(function () {
  "use strict";

  const KEY = "dashtop.settings";
  const VERSION = 2;
  const MIN_SPAN_MS = 2000;
  const MAX_SPAN_MS = 366 * 86_400_000;
  const root = document.documentElement;
  const listeners = [];

  const oneOf = (...words) => (value) => words.includes(value);
  const matches = (pattern) => (value) => pattern.test(value);
  // A moment in epoch milliseconds, before the year 10000.
  const isMoment = (value) => /^\d{1,15}$/.test(value) && Number(value) < 253_402_300_800_000;
  const isNameList = matches(/^[a-z_]{1,40}(,[a-z_]{1,40}){0,40}$/);
  const isIdList = matches(/^[a-z0-9-]{1,64}(,[a-z0-9-]{1,64}){0,60}$/);

  // Each setting: which texts are valid, and its default; "" leaves the choice to the server. Lists are joined by commas.
  const FIELDS = {
    page: [(value) => root.dataset.pages.split(" ").includes(value), ""],
    view: [oneOf("single", "compare"), "single"],
    gpu: [matches(/^[\w-]{1,64}$/), ""],
    range: [(value) => root.dataset.ranges.split(" ").includes(value), root.dataset.range],
    interval: [oneOf("0.5", "1", "2", "5"), ""],
    from: [isMoment, ""],
    to: [isMoment, ""],
    tz: [oneOf("browser", "server", "utc"), "browser"],
    process_group: [oneOf("user", "job", "gpu"), "user"],
    process_sort: [matches(/^-?[a-z_]{1,30}$/), "-gpu_memory_mib"],
    process_search: [matches(/^.{0,100}$/), ""],
    process_only: [isIdList, ""],
    me: [matches(/^.{1,64}$/), ""],
    sort: [matches(/^-?(gpu|state|utilization|memory|temperature|power|users|process|since)$/), ""],
    metric: [oneOf("utilization", "sm", "vram", "temperature", "power", "clock", "pcie-rx", "nvlink-rx"), "utilization"],
    theme: [oneOf("system", "light", "dark"), "system"],
    temperature: [oneOf("C", "F"), "C"],
    memory: [oneOf("GiB", "GB"), "GiB"],
    order: [isIdList, ""],
    hidden: [isIdList, ""],
    event_gpu: [matches(/^\d{1,4}$/), ""],
    event_severity: [isNameList, ""],
    event_kind: [isNameList, ""],
    lines: [matches(/^[a-z0-9-]{1,60}~[a-z0-9._]{1,60}(,[a-z0-9-]{1,60}~[a-z0-9._]{1,60}){0,40}$/), ""],
    charts: [matches(/^[a-z0-9._]{1,60}(,[a-z0-9._]{1,60}){0,11}$/), ""],
    details: [oneOf("open", "closed"), "closed"],
    bars: [oneOf("plain", "load"), "plain"],
    usage_by: [oneOf("user", "container", "slurm_job", "process"), "user"],
    run: [matches(/^[0-9a-f]{8,32}(,[0-9a-f]{8,32})?$/), ""],
    fleet_type: [matches(/^.{1,128}$/), ""],
    fleet_user: [matches(/^.{1,128}$/), ""],
    fleet_node: [matches(/^.{1,128}$/), ""],
    fleet_page: [matches(/^\d{1,4}$/), ""],
    fleet_count: [oneOf("", "2", "4", "8"), ""],
    fleet_memory: [oneOf("", "16", "24", "40", "80", "140"), ""],
  };
  const NAMES = Object.keys(FIELDS);
  // A link names these even if they have their defaults: whoever opens it may have other settings.
  const ALWAYS_IN_ADDRESS = ["page", "view", "gpu", "range"];
  // Not kept in storage: where a visit begins does not depend on where the last one ended.
  const ONLY_IN_ADDRESS = ["page", "from", "to", "sort", "lines", "process_search", "process_only", "run", "event_gpu", "event_severity", "event_kind"]
    .concat(["fleet_type", "fleet_user", "fleet_node", "fleet_page"]);
  // Not in the address: a link would make its reader somebody else.
  const NOT_IN_ADDRESS = ["me"];
  // Choices in panels, which the server needs to build their data.
  const OPTIONS = ["charts", "metric", "event_gpu", "event_severity", "event_kind"]
    .concat(["fleet_type", "fleet_user", "fleet_node", "fleet_page", "fleet_count", "fleet_memory"]);
  // A change of these is a step that the browser's Back button takes back.
  const STEPS = ["page", "view", "gpu", "range", "from", "to", "run", "fleet_node"];

  // An iframe shows what its address says, and does not change the settings of its viewer.
  const embedded = root.dataset.embed !== undefined;

  function keepValid(found) {
    const present = NAMES.filter((name) => found[name] !== undefined && found[name] !== null);
    return Object.fromEntries(present.map((name) => [name, String(found[name])]).filter(([name, value]) => FIELDS[name][0](value)));
  }

  // Version 1 had a key for the theme, and left GPU and range to Dash's persistence.
  function readVersion1(storage) {
    return {
      theme: storage.getItem("dashtop.theme"),
      gpu: window.dashtop.internals.readPersisted(storage, "gpu-selector"),
      range: window.dashtop.internals.readPersisted(storage, "time-range"),
    };
  }

  function readStorage() {
    if (embedded) return {};
    try {
      const text = window.localStorage.getItem(KEY);
      return keepValid((text ? JSON.parse(text) : readVersion1(window.localStorage)) || {});
    } catch {
      return {}; // storage is forbidden (in some iframes), or its content is not JSON
    }
  }

  // A link may name a moment as ISO 8601 too, whose "+" means a blank in an address.
  function toMoment(text) {
    if (!/^\d{4}-\d\d-\d\d/.test(text)) return text;
    return String(Date.parse(text.replace(/(T.*) (\d\d:?\d\d)$/, "$1+$2")));
  }

  // A span needs both ends, 2 s to a year apart (app/dashtop/ui/request.py); otherwise neither counts.
  function keepValidSpan(found) {
    const length = Number(found.to) - Number(found.from);
    if (length >= MIN_SPAN_MS && length < MAX_SPAN_MS) return found;
    return Object.fromEntries(Object.entries(found).filter(([name]) => name !== "from" && name !== "to"));
  }

  function readAddress() {
    const found = Object.fromEntries(new URLSearchParams(window.location.search));
    for (const name of ["from", "to"]) if (name in found) found[name] = toMoment(found[name]);
    return keepValidSpan(keepValid(found));
  }

  const defaults = Object.fromEntries(NAMES.map((name) => [name, FIELDS[name][1]]));
  const settings = { ...defaults, ...readStorage(), ...readAddress() };
  if (embedded) settings.view = root.dataset.embed === "compare" ? "compare" : "single";
  const shown = {}; // what the page shows without a setting, such as the first GPU

  function writeStorage() {
    if (embedded) return;
    try {
      const kept = NAMES.filter((name) => !ONLY_IN_ADDRESS.includes(name)).map((name) => [name, settings[name]]);
      window.localStorage.setItem(KEY, JSON.stringify({ version: VERSION, ...Object.fromEntries(kept) }));
    } catch {
      // Storage is forbidden or full: the settings last as long as the page, and are in its address.
    }
  }

  function writeAddress(isStep = false) {
    if (embedded) return;
    const url = new URL(window.location.href);
    for (const name of NAMES) {
      const value = settings[name] || shown[name] || "";
      if (value && !NOT_IN_ADDRESS.includes(name) && (value !== defaults[name] || ALWAYS_IN_ADDRESS.includes(name))) url.searchParams.set(name, value);
      else url.searchParams.delete(name);
    }
    if (url.href === window.location.href) return;
    if (isStep) window.history.pushState(null, "", url);
    else window.history.replaceState(window.history.state, "", url);
  }

  // The chosen time span [start, end] in epoch milliseconds; null: the range that ends now.
  function span() {
    return settings.from && settings.to ? [Number(settings.from), Number(settings.to)] : null;
  }

  function applyView() {
    root.dataset.view = settings.view;
    root.dataset.zoomed = String(span() !== null);
    root.dataset.page = settings.page || root.dataset.landing || "";
  }

  function notify(names) {
    applyView();
    writeAddress(names.some((name) => STEPS.includes(name)));
    listeners.forEach((listener) => listener(names));
  }

  function set(changes) {
    const names = NAMES.filter((name) => name in changes && changes[name] !== settings[name]);
    if (names.length === 0) return;
    for (const name of names) settings[name] = changes[name];
    writeStorage();
    notify(names);
  }

  applyView();

  window.addEventListener("popstate", () => {
    const found = { ...Object.fromEntries(ONLY_IN_ADDRESS.map((name) => [name, defaults[name]])), ...readAddress() };
    const names = Object.keys(found).filter((name) => found[name] !== settings[name]);
    Object.assign(settings, found);
    applyView();
    listeners.forEach((listener) => listener(names));
  });

  // The theme changes in all open tabs at once; the other settings are each tab's own.
  window.addEventListener("storage", (event) => {
    const { theme } = event.key === KEY ? readStorage() : {};
    if (!theme || theme === settings.theme) return;
    settings.theme = theme;
    notify(["theme"]);
  });

  window.dashtop.settings = {
    get: (name) => settings[name],
    options: () => Object.fromEntries(OPTIONS.map((name) => [name, settings[name]])),
    list: (name) => settings[name].split(",").filter(Boolean),
    span,
    // Shows a span, which is at least as long as charts can show; without an end what is live.
    setSpan(start, end) {
      const [from, to] = end === undefined ? ["", ""] : [start, Math.max(end, start + MIN_SPAN_MS)].map((ms) => String(Math.round(ms)));
      set({ from, to });
    },
    set,
    reset: () => set({ ...defaults, ...Object.fromEntries(STEPS.map((name) => [name, settings[name]])) }),
    applyView,
    // Puts into the address what the page shows without a setting.
    setShown(changes) {
      Object.assign(shown, changes);
      writeAddress();
    },
    onChange: (listener) => listeners.push(listener),
  };
})();
