// Notifications of alerts in this browser. One of its tabs listens to the server's stream of alerts, which also reaches a
// tab in the background, and has the service worker show them. Which episodes were shown is kept in storage: a reload, or
// a restart of the server, repeats none.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts } = dashtop;
  const { make, write } = parts;
  const MINUTE_MS = 60_000;
  const HOUR_MS = 60 * MINUTE_MS;
  const FIRST_RETRY_MS = 2000; // a server that has just been started refuses the stream until its first sample
  const RETRY_MS = MINUTE_MS;
  const SETTLE_MS = 3000; // after it, the stream has sent all alerts
  const EPISODE_TOLERANCE_MS = MINUTE_MS; // as in app/dashtop/alerts/identity.py
  const REPEAT_MS = { critical: 4 * HOUR_MS, warning: 24 * HOUR_MS, info: Infinity };
  const MAX_NOTIFIED = 200;
  const MAX_WATCH_MS = 7 * 24 * HOUR_MS; // as in app/dashtop/web/api/alerts.py
  const SEVERITIES = { info: "All alerts", warning: "Warnings and critical alerts", critical: "Critical alerts only" };
  const RANKS = Object.keys(SEVERITIES);
  const DEFAULTS = { on: false, severity: "warning" };

  const scope = () => new URL(dashtop.viewRequest.url(""), window.location.href).pathname;
  const isFramed = window.parent !== window || document.documentElement.dataset.embed !== undefined;
  const rank = (severity) => RANKS.indexOf(severity);

  // --- storage ------------------------------------------------------------------------------------------------

  const memory = {}; // where storage is forbidden or full

  function read(name) {
    const key = `dashtop.${name}:${scope()}`;
    try {
      return JSON.parse(window.localStorage.getItem(key)) || memory[key] || {};
    } catch {
      return memory[key] || {};
    }
  }

  function store(name, content) {
    const key = `dashtop.${name}:${scope()}`;
    memory[key] = content;
    try {
      window.localStorage.setItem(key, JSON.stringify(content));
    } catch {
      // what it holds lasts as long as the page
    }
  }

  function choice() {
    const { on, severity } = { ...DEFAULTS, ...read("notifications") };
    return { on: on === true, severity: RANKS.includes(severity) ? severity : DEFAULTS.severity };
  }

  function remember(id, notified) {
    const newest = Object.entries({ ...read("notified"), [id]: notified }).sort(([, one], [, other]) => other.at - one.at);
    store("notified", Object.fromEntries(newest.slice(0, MAX_NOTIFIED)));
  }

  // --- what the browser allows --------------------------------------------------------------------------------

  // Why there can be no notifications; "" if nothing is in the way.
  function findObstacle() {
    if (isFramed) return "Browsers show no notifications of a page in a frame: open dashtop in a tab of its own.";
    if (!window.isSecureContext) return "Browsers show notifications only of pages that were opened with https://, or on this machine as http://localhost.";
    if (!window.Notification || !navigator.serviceWorker || !navigator.locks) return "This browser cannot show notifications.";
    if (Notification.permission === "denied") return "The browser blocks notifications of this address: allow them in its settings of this site.";
    return "";
  }

  const isAllowed = () => !findObstacle() && Notification.permission === "granted";
  const isOn = () => choice().on && isAllowed();

  // Asks for permission; throws an Error that says why there is none.
  async function allow() {
    const obstacle = findObstacle();
    if (obstacle) throw new Error(obstacle);
    if ((await Notification.requestPermission()) !== "granted") throw new Error(findObstacle() || "The browser does not allow notifications.");
  }

  // --- showing ------------------------------------------------------------------------------------------------

  const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const hostName = () => document.querySelector(".host-name").textContent;

  async function show({ id, title, text, address = "?page=alerts", isUrgent = false }) {
    const { ready } = navigator.serviceWorker;
    const simulated = document.documentElement.dataset.simulated === "true" ? "[simulated] " : "";
    await (await ready).showNotification(`${simulated}${title} · ${hostName()}`, {
      body: text,
      tag: id,
      renotify: true,
      requireInteraction: isUrgent,
      icon: document.querySelector("link[rel=icon]").href,
      data: { address },
    });
  }

  async function close(isOver) {
    const registration = await navigator.serviceWorker.ready;
    for (const notification of await registration.getNotifications()) if (isOver(notification.tag)) notification.close();
  }

  // --- alerts -------------------------------------------------------------------------------------------------

  const active = new Map();

  const isWanted = (alert) =>
    alert.acked === null && alert.silenced_by === null && alert.inhibited_by === null && rank(alert.severity) >= rank(choice().severity);

  function isDue(alert, now) {
    const notified = read("notified")[alert.id];
    if (!notified || Math.abs(notified.since - alert.since) > EPISODE_TOLERANCE_MS) return true;
    return rank(alert.severity) > rank(notified.severity) || now - notified.at >= REPEAT_MS[alert.severity];
  }

  function consider(alert) {
    const now = Date.now();
    if (!isOn() || !isWanted(alert) || !isDue(alert, now)) return;
    remember(alert.id, { since: alert.since, severity: alert.severity, at: now });
    show({ id: alert.id, title: capitalize(alert.severity), text: `${alert.text} ${alert.advice}`.trim(), isUrgent: alert.severity === "critical" });
  }

  function receive(alert) {
    if (alert.state === "resolved") active.delete(alert.id);
    else active.set(alert.id, alert);
    if (alert.state === "resolved" || !isWanted(alert)) close((tag) => tag === alert.id);
    else consider(alert);
  }

  // --- watches ------------------------------------------------------------------------------------------------

  // Those of this browser: {id: when it began to wait}.
  function ownWatches() {
    return Object.fromEntries(Object.entries(read("watches")).filter(([, since]) => Date.now() - since < MAX_WATCH_MS));
  }

  function expect(id) {
    store("watches", { ...ownWatches(), [id]: Date.now() });
    follow();
  }

  function forget(id) {
    const { [id]: isOwn, ...others } = ownWatches();
    if (!isOwn) return;
    store("watches", others);
    follow();
  }

  function receiveWatch({ id, met, kind, gpu_uuid: gpu, text }) {
    const { [id]: isOwn, ...others } = ownWatches();
    if (!isOwn || met === null || !isAllowed()) return;
    store("watches", others);
    const address = kind === "gpu_free" ? `?page=gpus&view=single&gpu=${gpu}` : "?page=processes";
    show({ id: `watch ${id}`, title: kind === "gpu_free" ? "Free" : "Ended", text, address });
    follow();
  }

  // What has ended while nobody listened.
  function closeEnded() {
    close((tag) => /^[0-9a-f]{16}$/.test(tag) && !active.has(tag));
  }

  // --- one tab listens ----------------------------------------------------------------------------------------

  let waiting = null; // AbortController of the request of the lock
  let leave = null; // gives the lock back

  async function ask(path) {
    const answer = await fetch(dashtop.viewRequest.url(`api/v1/system/${path}`), { signal: AbortSignal.timeout(RETRY_MS / 2) });
    return answer.ok ? answer.json() : null;
  }

  // Where the stream is refused: it is one of the few that the server has.
  async function askOnce() {
    const [alerts, watches] = await Promise.all(["alerts?state=firing,recovering", "watches"].map(ask));
    if (!alerts || !watches) return;
    watches.forEach(receiveWatch);
    active.clear();
    alerts.forEach(receive);
    closeEnded();
  }

  function listen() {
    let timer = null;
    let stream = null;
    let retryMs = FIRST_RETRY_MS;
    const connect = () => {
      stream = new EventSource(dashtop.viewRequest.url("api/v1/system/stream?alerts=only"));
      stream.addEventListener("alert", ({ data }) => receive(JSON.parse(data)));
      stream.addEventListener("watch", ({ data }) => receiveWatch(JSON.parse(data)));
      stream.addEventListener("open", () => {
        active.clear();
        clearTimeout(timer);
        retryMs = FIRST_RETRY_MS;
        timer = setTimeout(closeEnded, SETTLE_MS);
      });
      stream.addEventListener("error", () => {
        if (stream.readyState !== EventSource.CLOSED) return; // else the browser connects again by itself
        clearTimeout(timer);
        timer = setTimeout(() => askOnce().catch(() => {}).then(connect), retryMs);
        retryMs = Math.min(2 * retryMs, RETRY_MS);
      });
    };
    connect();
    const repeats = setInterval(() => active.forEach(consider), MINUTE_MS);
    return () => {
      stream.close();
      clearTimeout(timer);
      clearInterval(repeats);
      active.clear();
    };
  }

  function hold() {
    const stop = listen();
    return new Promise((resolve) => {
      leave = () => {
        stop();
        leave = null;
        resolve();
      };
    });
  }

  const isListening = () => isOn() || (isAllowed() && Object.keys(ownWatches()).length > 0);

  function follow() {
    if (isListening() && !waiting) {
      waiting = new AbortController();
      navigator.locks.request(`dashtop.notifications:${scope()}`, { signal: waiting.signal }, hold).catch((error) => {
        if (error.name !== "AbortError") throw error;
      });
    } else if (!isListening() && waiting) {
      if (leave) leave();
      else waiting.abort();
      waiting = null;
    }
    active.forEach(consider);
  }

  // --- controls -----------------------------------------------------------------------------------------------

  function set(changes) {
    store("notifications", { ...choice(), ...changes });
    paint();
    follow();
  }

  async function toggle() {
    if (isOn()) set({ on: false });
    else set({ on: (await Notification.requestPermission()) === "granted" });
  }

  function addButton(parent, name, text, action) {
    const button = make("button", "btn btn-sm btn-light", parent, text);
    button.type = "button";
    button.dataset.role = name;
    button.addEventListener("click", action);
  }

  function build(row) {
    const body = make("div", "alert-body", row);
    make("p", "alert-text", body, "This browser");
    make("p", "alert-note", body).setAttribute("role", "status");
    const buttons = make("div", "alert-buttons", row);
    const select = make("select", "form-select", buttons);
    select.setAttribute("aria-label", "Alerts that this browser notifies of");
    for (const [value, label] of Object.entries(SEVERITIES)) make("option", "", select, label).value = value;
    select.addEventListener("change", () => set({ severity: select.value }));
    addButton(buttons, "test", "Test", () => show({ id: "test", title: "Test", text: "This is a test of the notifications." }));
    addButton(buttons, "toggle", "Turn on", toggle);
  }

  function describe(obstacle) {
    if (obstacle) return obstacle;
    const isWaiting = Object.keys(ownWatches()).length > 0;
    if (!isOn() && isWaiting && isAllowed()) return "On for your watches, off for alerts. At least one tab of dashtop has to stay open.";
    if (!isOn()) return `Off${isWaiting ? ", also for your watches" : ""}. The browser asks for permission when you turn notifications on.`;
    return "On. At least one tab of dashtop has to stay open; it may be in the background.";
  }

  function paint() {
    const row = document.querySelector("[data-this-browser]");
    if (!row || !dashtop.viewRequest.isShown(row.closest(".panel"))) return; // reading the permission takes milliseconds
    if (!row.firstChild) build(row);
    const obstacle = findObstacle();
    write(row.querySelector(".alert-note"), describe(obstacle));
    row.querySelector(".alert-buttons").hidden = obstacle !== "";
    write(row.querySelector("[data-role=toggle]"), isOn() ? "Turn off" : "Turn on");
    row.querySelector("[data-role=test]").hidden = !isOn();
    const select = row.querySelector("select");
    select.hidden = !isOn();
    if (select !== document.activeElement) select.value = choice().severity;
  }

  // --- beginning ----------------------------------------------------------------------------------------------

  let isStarted = false;

  // The first snapshot says whether the GPUs are simulated.
  function start(snapshot) {
    paint();
    if (isStarted || snapshot.sequence === null || snapshot.isStored) return;
    isStarted = true;
    if (!isFramed) follow();
  }

  window.addEventListener("storage", ({ key }) => {
    if (!isStarted || isFramed || !key || !/^dashtop\.(notifications|watches):/.test(key)) return;
    paint();
    follow();
  });
  if (navigator.serviceWorker) {
    navigator.serviceWorker.addEventListener("message", ({ data }) => {
      if (data.type === "open") dashtop.settings.set(Object.fromEntries(new URLSearchParams(data.address)));
    });
  }
  dashtop.notifications = { obstacle: findObstacle, isAllowed, isOwn: (id) => id in ownWatches(), allow, expect, forget, follow };
  painters.push(start);
})();
