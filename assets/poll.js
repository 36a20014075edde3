// Asks the server, one request at a time, and judges how that goes: the server may be the thing that died.
//
// live:          answers arrive and their data are young
// stale:         the newest data are older than three intervals
// paused:        nobody sees the page: it does not ask
// disconnected:  five polls in a row have failed; polling has stopped, and a slow probe looks for the server
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const TIMEOUT_MS = 3000;
  const WATCHDOG_MS = TIMEOUT_MS + 1000;
  const MOST_FAILURES = 5;
  const PROBE_FIRST_MS = 1000;
  const PROBE_MOST_MS = 15000;

  const TITLES = {
    connection: "Connection lost",
    gpu: "GPU readings failed",
    api: "The server reported an error",
    general: "Something is wrong",
  };

  const state = {
    asked: null, // when the request in flight was sent
    again: false, // the view has changed since
    count: 0,
    failures: 0,
    gpuFailures: 0,
    failure: null, // {type, message} of the newest
    cause: null, // what the fetch wrapper knows and Dash does not pass on
    stopped: false,
    retrying: false,
    probe: null,
    probes: 0,
    frame: null,
    sent: 0, // when the frame was asked for
    received: 0,
    lastGood: null,
    woken: 0,
  };

  const now = () => performance.now();
  const byId = (id) => document.getElementById(id);
  const setProps = (id, props) => window.dash_clientside.set_props(id, props);

  // --- asking -------------------------------------------------------------------------------------------------

  function request() {
    state.asked = now();
    state.again = false;
    state.cause = null;
    state.count += 1;
    return { n: state.count, drawn: state.frame ? state.frame.drawn : null, ...dashtop.view.current() };
  }

  // Dash writes down every tick for an undo button, which this page lacks, and never lets go of any: of an open page's
  // memory that would take 20 MB a day.
  function forgetTicks() {
    for (const store of window.dash_stores) store.getState().history.past.length = 0;
  }

  // Called by Dash: the interval has ticked.
  function gate() {
    forgetTicks();
    const idle = document.hidden && state.frame;
    if (state.stopped || idle || state.asked !== null) return window.dash_clientside.no_update;
    return request();
  }

  function ask() {
    if (state.stopped) return;
    if (state.asked !== null) state.again = true;
    else setProps("ask", { data: request() });
  }

  // --- answers ------------------------------------------------------------------------------------------------

  const plainFetch = window.fetch;

  // fetch() waits for ever, and Dash never hears of an answer that breaks off or of a login page in its place: all end here.
  async function whole(input, options) {
    try {
      const response = await plainFetch.call(window, input, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (response.status === 200) {
        const answer = await response.json();
        response.json = async () => answer;
      }
      return response;
    } catch (error) {
      const strange = error.name === "SyntaxError";
      const late = error.name === "TimeoutError";
      state.cause = strange
        ? { type: "general", message: "Something between here and the server answers in its place." }
        : { type: "connection", message: late ? "The server does not answer." : "The server cannot be reached." };
      throw error;
    }
  }

  window.fetch = function (input, options) {
    const body = options && typeof options.body === "string" ? options.body : "";
    const isTick = String(input.url || input).includes("_dash-update-component") && body.includes("live.data");
    return isTick ? whole(input, options) : plainFetch.call(window, input, options);
  };

  function judge(error) {
    if (state.cause) return state.cause;
    const status = error && error.status;
    if (!status) return { type: "connection", message: "The server cannot be reached." };
    if (status >= 502 && status <= 504) return { type: "connection", message: `A gateway cannot reach the server (${status}).` };
    if (status >= 500) return { type: "api", message: `The server failed to answer (${status}).` };
    return { type: "general", message: `The server refused to answer (${status}).` };
  }

  // Called by Dash for every callback that has ended (see shell.py); an answer already given up counts no more.
  dashtop.resolved = function (callback, result) {
    if (state.asked === null || !result || !callback.output.includes("live.data")) return;
    const sent = state.asked;
    state.asked = null;
    if (result.error) failed(judge(result.error));
    else if (result.data && result.data.live) arrived(result.data.live.data, sent);
    else failed({ type: "general", message: "The server sent an empty answer." });
  };

  function arrived(answer, sent) {
    const frame = dashtop.held.whole(answer);
    state.sent = sent;
    state.received = now();
    state.frame = frame;
    dashtop.paint(frame);
    dashtop.plots.draw(frame);
    if (frame.error && frame.error.type !== "gpu") failed(frame.error);
    else succeeded(frame);
  }

  function succeeded(frame) {
    state.failures = 0;
    state.probes = 0;
    state.retrying = false;
    clearTimeout(state.probe);
    if (state.stopped) {
      state.stopped = false;
      setProps("tick", { disabled: false });
    }
    if (frame.error) {
      // The host's numbers go on: GPU trouble is said aloud, but never stops the page.
      state.gpuFailures += 1;
      state.failure = frame.error;
    } else {
      state.gpuFailures = 0;
      state.failure = null;
      if (frame.sequence !== null) state.lastGood = new Date(Date.now() - frame.age * 1000);
    }
    show();
    // Not from within the hook: Dash has yet to put this answer away.
    if (state.again) setTimeout(ask);
  }

  function failed(failure) {
    state.asked = null;
    state.retrying = false;
    if (document.hidden && !state.stopped) return;
    state.failures += 1;
    state.failure = failure;
    if (state.failures >= MOST_FAILURES) {
      if (!state.stopped) {
        state.stopped = true;
        setProps("tick", { disabled: true });
      }
      lookAgainLater();
    }
    show();
  }

  // --- coming back --------------------------------------------------------------------------------------------

  function lookAgainLater() {
    clearTimeout(state.probe);
    state.probe = setTimeout(probe, Math.min(PROBE_FIRST_MS * 2 ** state.probes, PROBE_MOST_MS));
    state.probes += 1;
  }

  function probe() {
    if (document.hidden || !state.stopped) return;
    plainFetch(dashtop.view.url("healthz"), { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) }).then(
      (response) => (response.ok ? retry() : lookAgainLater()),
      lookAgainLater,
    );
  }

  function retry() {
    clearTimeout(state.probe);
    if (state.asked !== null) return;
    if (!state.stopped) {
      ask();
      return;
    }
    state.retrying = true;
    show();
    setProps("ask", { data: request() });
  }

  function wake() {
    show();
    if (document.hidden) return;
    state.woken = now();
    if (state.stopped) probe();
    else ask();
  }

  document.addEventListener("visibilitychange", wake);
  window.addEventListener("online", wake);
  document.addEventListener("click", (event) => {
    if (event.target.closest("#retry-button")) retry();
  });

  // --- what is said about it ----------------------------------------------------------------------------------

  function condition() {
    if (state.stopped) return "disconnected";
    if (!state.frame || state.frame.sequence === null) return "loading";
    if (document.hidden) return "paused";
    const limit = 3000 * Math.max(state.frame.interval, dashtop.view.intervalSeconds());
    return ageMs() > limit && now() - state.woken > limit ? "stale" : "live";
  }

  const ageMs = () => state.frame.age * 1000 + now() - state.received;

  function duration(ms) {
    const seconds = Math.round(ms / 1000);
    if (seconds < 120) return `${seconds} s`;
    return seconds < 7200 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
  }

  function write(element, text) {
    if (element && element.textContent !== text) element.textContent = text;
  }

  function show() {
    const kind = condition();
    const indicator = byId("live-indicator");
    if (document.documentElement.dataset.live !== kind) document.documentElement.dataset.live = kind;
    if (indicator) {
      const words = { loading: "Connecting", live: "Live", paused: "Paused", stale: "Stale", disconnected: "Disconnected" };
      write(indicator.querySelector(".live-state"), words[kind]);
      write(indicator.querySelector(".live-age"), kind === "stale" ? duration(ageMs()) : "");
    }
    showBanner();
  }

  function showBanner() {
    const banner = byId("error-banner");
    if (!banner) return;
    const count = Math.max(state.failures, state.gpuFailures);
    const wanted = state.failure !== null && count >= MOST_FAILURES;
    if (wanted) {
      const { type, message } = state.failure;
      const good = state.lastGood ? `last good data ${state.lastGood.toLocaleTimeString([], { hourCycle: "h23" })}` : "no data yet";
      banner.dataset.type = type;
      write(banner.querySelector(".banner-title"), TITLES[type] || TITLES.general);
      write(banner.querySelector(".banner-detail"), `${message} ${count} attempts failed, ${good}.`);
      const button = byId("retry-button");
      button.disabled = state.retrying;
      write(button, state.retrying ? "Retrying…" : "Retry");
    }
    if (banner.hidden === wanted) banner.hidden = !wanted;
  }

  setInterval(() => {
    const waited = state.asked === null ? 0 : now() - state.asked;
    if (waited > WATCHDOG_MS) failed({ type: "connection", message: "The server does not answer." });
    show();
  }, 500);

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.dashtop = { ...window.dash_clientside.dashtop, gate };
  dashtop.ask = ask;
  dashtop.newest = () => (state.frame && state.frame.sequence !== null ? state : null);
  dashtop.repaint = () => state.frame && dashtop.paint(state.frame);
})();
