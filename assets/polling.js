// Requests snapshots, one at a time, and judges failures in the browser: the server may be what has failed.
//
// live:          answers arrive, and their data are recent
// stale:         the newest data are older than three intervals
// past:          answers arrive, and the page shows a past moment
// paused:        the page is hidden and requests nothing
// disconnected:  five requests in a row have failed; polling has stopped, and a slow probe looks for the server
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { internals, storedPage } = dashtop;
  const REQUEST_TIMEOUT_MS = 3000;
  const WATCHDOG_TIMEOUT_MS = REQUEST_TIMEOUT_MS + 1000;
  const STATUS_INTERVAL_MS = 500;
  const MAX_FAILURES = 5;
  const MIN_PROBE_INTERVAL_MS = 1000;
  const MAX_PROBE_INTERVAL_MS = 15000;

  const TITLES = {
    connection: "Connection lost",
    gpu: "GPU readings failed",
    api: "The server reported an error",
    general: "Something is wrong",
  };
  const INDICATOR_TEXTS = { loading: "Connecting", live: "Live", past: "Paused", paused: "Paused", stale: "Stale", disconnected: "Disconnected" };

  const state = {
    sentAt: null, // when the request in flight was sent; null if there is none
    waitedMs: 0, // for its answer, while the page ran
    checkedAt: 0, // when waitedMs was last updated
    abort: null, // AbortController of the last request
    viewChanged: false, // since then
    count: 0,
    failures: 0, // requests in a row
    gpuFailures: 0, // snapshots in a row that report a failed GPU
    failure: null, // {type, message, scope} of the last failure
    fetchFailure: null, // what the wrapper of fetch() knows and Dash does not pass on
    stopped: storedPage.isStored, // the server did not answer when the page was loaded
    isRestored: false,
    retrying: false,
    probeTimer: null,
    probes: 0,
    latest: null, // {snapshot, requestedAt, receivedAt}
    lastSuccess: null,
    shownAt: 0, // when the page was last hidden or shown
  };

  const now = () => performance.now();
  const byId = (id) => document.getElementById(id);
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);

  // --- requests -----------------------------------------------------------------------------------------------

  function buildRequest() {
    state.sentAt = now();
    state.waitedMs = 0;
    state.viewChanged = false;
    state.fetchFailure = null;
    state.count += 1;
    return { n: state.count, ...dashtop.viewRequest.build() };
  }

  // Callback of the interval (app/dashtop/ui/callbacks.py). A request slower than the interval must not be overtaken:
  // Dash drops the answers of all but the newest, and the page would never change.
  function sendRequest() {
    internals.clearUndoHistory();
    if (storedPage.isStored && !state.latest && !state.isRestored) restore();
    const idle = document.hidden && state.latest;
    if (state.stopped || idle || state.sentAt !== null) return window.dash_clientside.no_update;
    return buildRequest();
  }

  function requestNow() {
    if (state.stopped) return;
    if (state.sentAt !== null) state.viewChanged = true;
    else setProps("request", { data: buildRequest() });
  }

  // --- answers ------------------------------------------------------------------------------------------------

  const browserFetch = window.fetch;

  // fetch() has no timeout, and Dash ignores an answer that breaks off and a login page in its place: both fail here.
  async function fetchWithTimeout(input, options) {
    state.abort = new AbortController();
    state.waitedMs = 0;
    try {
      const response = await browserFetch.call(window, input, { ...options, signal: state.abort.signal });
      if (response.status === 200) {
        const answer = await response.json();
        response.json = async () => answer;
      }
      return response;
    } catch (error) {
      state.fetchFailure =
        error.name === "SyntaxError"
          ? { type: "general", message: "Something between here and the server answers in its place." }
          : { type: "connection", message: error.name === "TimeoutError" ? "The server does not answer." : "The server cannot be reached." };
      throw error;
    }
  }

  window.fetch = function (input, options) {
    if (internals.isCallbackRequest(input, options, "live.data")) return fetchWithTimeout(input, options);
    return browserFetch.call(window, input, options);
  };

  function classify(error) {
    if (state.fetchFailure) return state.fetchFailure;
    const status = error && error.status;
    if (!status) return { type: "connection", message: "The server cannot be reached." };
    if (status === 401) storedPage.forget();
    if (status >= 502 && status <= 504) return { type: "connection", message: `A gateway cannot reach the server (${status}).` };
    if (status >= 500) return { type: "api", message: `The server failed to answer (${status}).` };
    return { type: "general", message: `The server refused to answer (${status}).` };
  }

  // Hook of Dash (app/dashtop/ui/dash_internals.py). It only judges failures: a snapshot goes through the store "live".
  // The answer to a request that the watchdog has given up does not count.
  function onCallbackResolved(callback, result) {
    const tick = internals.callbackResult(callback, result, "live", "data");
    if (state.sentAt === null || tick === null) return;
    if (tick.error) recordFailure(classify(tick.error));
    else if (!tick.data) recordFailure({ type: "general", message: "The server sent an empty answer." });
  }

  // Called with each snapshot that has been painted (live-values.js). The next request waits for this: Dash holds back
  // a callback of the store "live" while a request for its next value is in flight.
  function accept(snapshot) {
    if (state.sentAt === null) return;
    state.latest = { snapshot, requestedAt: state.sentAt, receivedAt: now() };
    state.sentAt = null;
    if (snapshot.error && snapshot.error.type !== "gpu") recordFailure(snapshot.error);
    else recordSuccess(snapshot);
  }

  function recordSuccess(snapshot) {
    state.failures = 0;
    state.probes = 0;
    state.retrying = false;
    clearTimeout(state.probeTimer);
    if (state.stopped) {
      state.stopped = false;
      state.isRestored = false;
      setProps("tick", { disabled: false });
    }
    if (snapshot.error) {
      // The host's values are still updated: a failed GPU shows the banner, but never stops polling.
      state.gpuFailures += 1;
      state.failure = snapshot.error;
    } else {
      state.gpuFailures = 0;
      state.failure = null;
      if (snapshot.sequence !== null) state.lastSuccess = new Date(Date.now() - snapshot.age * 1000);
    }
    showStatus();
    // Not from within a callback: Dash has yet to finish it.
    if (state.viewChanged) setTimeout(requestNow);
  }

  function recordFailure(failure) {
    state.sentAt = null;
    state.retrying = false;
    if (document.hidden && !state.stopped) return;
    state.failures += 1;
    state.failure = failure;
    if (state.failures === 1) storedPage.save();
    if (state.failures >= MAX_FAILURES) {
      if (!state.stopped) {
        state.stopped = true;
        setProps("tick", { disabled: true });
      }
      scheduleProbe();
    }
    showStatus();
  }

  // --- a page that is stored --------------------------------------------------------------------------------------

  // Shows the last values of a page that the service worker has answered with, and looks for the server.
  async function restore() {
    state.isRestored = true;
    state.failures = MAX_FAILURES; // the banner is shown, and the probe goes on
    setProps("tick", { disabled: true });
    state.failure = { type: "connection", message: "The server cannot be reached." };
    const stored = await storedPage.load();
    if (stored) {
      const receivedAt = now() - (Date.now() - stored.time);
      state.latest = { snapshot: { ...stored.snapshot, age: 0 }, requestedAt: receivedAt, receivedAt };
      state.lastSuccess = new Date(stored.time);
      showStatus();
      dashtop.paintStored(state.latest.snapshot);
      dashtop.charts.draw(stored.figures);
    }
    showStatus();
    scheduleProbe();
  }

  // --- reconnection -------------------------------------------------------------------------------------------

  function scheduleProbe() {
    clearTimeout(state.probeTimer);
    state.probeTimer = setTimeout(probe, Math.min(MIN_PROBE_INTERVAL_MS * 2 ** state.probes, MAX_PROBE_INTERVAL_MS));
    state.probes += 1;
  }

  function probe() {
    if (document.hidden || !state.stopped) return;
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    browserFetch(dashtop.viewRequest.url("healthz"), { cache: "no-store", signal }).then(
      (response) => (response.ok ? retry() : scheduleProbe()),
      scheduleProbe,
    );
  }

  function retry() {
    clearTimeout(state.probeTimer);
    if (state.sentAt !== null) return;
    if (!state.stopped) {
      requestNow();
      return;
    }
    state.retrying = true;
    showStatus();
    setProps("request", { data: buildRequest() });
  }

  function resume() {
    showStatus();
    if (document.hidden) return;
    state.shownAt = now();
    if (state.stopped) probe();
    else requestNow();
  }

  document.addEventListener("visibilitychange", resume);
  window.addEventListener("online", resume);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#retry-button")) retry();
  });

  // --- status indicator and banner ----------------------------------------------------------------------------

  const ageMs = () => state.latest.snapshot.age * 1000 + now() - state.latest.receivedAt;

  function currentStatus() {
    if (state.stopped) return "disconnected";
    if (!state.latest || state.latest.snapshot.sequence === null) return "loading";
    if (document.hidden) return "paused";
    const limitMs = 3000 * Math.max(state.latest.snapshot.interval, dashtop.viewRequest.intervalSeconds());
    if (ageMs() > limitMs && now() - state.shownAt > limitMs) return "stale";
    return state.latest.snapshot.is_past ? "past" : "live";
  }

  function formatDuration(ms) {
    const seconds = Math.round(ms / 1000);
    if (seconds < 120) return `${seconds} s`;
    return seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  }

  function showStatus() {
    const current = currentStatus();
    const indicator = byId("live-indicator");
    if (document.documentElement.dataset.live !== current) document.documentElement.dataset.live = current;
    if (indicator) {
      dashtop.parts.write(indicator.querySelector(".live-state"), INDICATOR_TEXTS[current]);
      dashtop.parts.write(indicator.querySelector(".live-age"), current === "stale" ? formatDuration(ageMs()) : "");
    }
    showBanner();
  }

  const capitalize = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  // The failure of one GPU is shown where that GPU is, and that of all but where the overview lists it as a problem.
  function concernsPage({ scope, message }) {
    const { page, view, embed } = document.documentElement.dataset;
    if (embed !== undefined) return true;
    if (scope === "gpu") return page === "gpus" && view === "single";
    const problems = (page === "overview" && scope === "driver" && state.latest && state.latest.snapshot.problems) || [];
    return !problems.some(({ text }) => message.startsWith(text));
  }

  function showBanner() {
    const banner = byId("error-banner");
    if (!banner) return;
    const count = Math.max(state.failures, state.gpuFailures);
    const visible = state.failure !== null && count >= MAX_FAILURES && concernsPage(state.failure);
    if (visible) {
      const { type, message } = state.failure;
      const lastData = state.lastSuccess
        ? `not updated since ${dashtop.times.moment(state.lastSuccess.getTime())}`
        : "no data yet";
      const attempts = !state.isRestored ? `${count} attempts failed, ` : "";
      // The server answers; only the GPU does not. Its page says since when.
      const detail = type === "gpu" ? message : `${message} ${capitalize(`${attempts}${lastData}.`)}`;
      banner.dataset.type = type;
      dashtop.parts.write(banner.querySelector(".banner-title"), TITLES[type] || TITLES.general);
      dashtop.parts.write(banner.querySelector(".banner-detail"), detail);
      const button = byId("retry-button");
      button.hidden = type === "gpu";
      button.disabled = state.retrying;
      dashtop.parts.write(button, state.retrying ? "Retrying…" : "Retry");
    }
    if (banner.hidden === visible) banner.hidden = !visible;
  }

  // A page that was blocked or suspended has not waited: the answer may have come and not been read. A timer of the
  // browser (AbortSignal.timeout) ends such a request.
  function checkTimeout() {
    const checkedAt = state.checkedAt;
    state.checkedAt = now();
    if (state.sentAt === null) return;
    state.waitedMs += Math.min(state.checkedAt - Math.max(checkedAt, state.sentAt), 2 * STATUS_INTERVAL_MS);
    if (state.abort && state.waitedMs > REQUEST_TIMEOUT_MS) state.abort.abort(new DOMException("No answer in time", "TimeoutError"));
    if (state.waitedMs > WATCHDOG_TIMEOUT_MS) recordFailure({ type: "connection", message: "The server does not answer." });
  }

  setInterval(() => {
    checkTimeout();
    showStatus();
  }, STATUS_INTERVAL_MS);

  dashtop.onCallbackResolved = onCallbackResolved;
  dashtop.polling = {
    accept,
    requestNow,
    // The newest snapshot with the times of its request and its answer; null before the first sample.
    latest: () => (state.latest && state.latest.snapshot.sequence !== null ? state.latest : null),
  };
  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, send_request: sendRequest };
})();
