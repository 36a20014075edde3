// The page without a server: the service worker (assets/sw.js) answers with the page that it keeps, and this script shows
// the last values in it, which are old. The browser offers neither to a page that came over plain http from elsewhere.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const root = document.documentElement;
  const SAVE_INTERVAL_MS = 30_000;
  const KEEP_DELAY_MS = 3000; // what is kept for later must not delay what is shown now
  const isStored = root.dataset.stored !== undefined;
  const isFramed = window.parent !== window || root.dataset.embed !== undefined;
  const worker = isFramed ? undefined : navigator.serviceWorker;
  let newest = null; // {time, snapshot}
  let saved = null;

  const scope = () => new URL(dashtop.viewRequest.url(""), window.location.href).href;
  const cacheName = () => `dashtop values ${scope()}`; // as in assets/sw.js
  const address = () => `${scope()}last-values`;

  // --- the last values ----------------------------------------------------------------------------------------

  async function save() {
    if (!worker || !newest || newest === saved) return;
    saved = newest;
    const content = JSON.stringify({ ...newest, figures: dashtop.charts.figures() });
    await (await caches.open(cacheName())).put(address(), new Response(content));
  }

  // Returns {time, snapshot, figures}, or null.
  async function load() {
    const response = await caches.match(address(), { cacheName: cacheName() });
    return response ? response.json() : null;
  }

  async function forget() {
    newest = null;
    if (worker) await caches.delete(cacheName());
  }

  function note(snapshot) {
    if (snapshot.sequence !== null && !snapshot.is_past && !snapshot.isStored) newest = { time: Date.now() - snapshot.age * 1000, snapshot };
  }

  // --- the service worker -------------------------------------------------------------------------------------

  function keepFiles() {
    const addresses = [window.location.href, ...performance.getEntriesByType("resource").map(({ name }) => name)];
    if (worker.controller && !isStored) worker.controller.postMessage({ type: "keep", addresses });
  }

  // A server that comes back may be another version than the stored page.
  function change() {
    if (isStored && root.dataset.live === "live") window.location.reload();
    else keepFiles();
  }

  async function install() {
    worker.addEventListener("controllerchange", change);
    try {
      await worker.register(dashtop.viewRequest.url("sw.js"), { scope: scope(), updateViaCache: "none" });
      setTimeout(keepFiles, KEEP_DELAY_MS);
    } catch (error) {
      console.warn("No service worker:", error.message); // such as a certificate that the browser does not trust
    }
  }

  let isStarted = false;

  function start(snapshot) {
    note(snapshot);
    if (isStarted || snapshot.sequence === null || snapshot.isStored) return;
    isStarted = true;
    if (!worker) return;
    install();
    setInterval(save, SAVE_INTERVAL_MS);
    document.addEventListener("visibilitychange", () => document.hidden && save());
  }

  dashtop.painters.push(start);
  dashtop.storedPage = { isStored, save, load, forget };
})();
