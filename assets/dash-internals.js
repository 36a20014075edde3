// Everything that the page uses of Dash and Plotly without these documenting it. Its counterpart on the server is
// app/dashtop/ui/dash_internals.py; tests/browser/test_dash_internals.py fails if an installed version changes any of it.
(function () {
  "use strict";

  const UPDATE_PATH = "_dash-update-component";

  // --- Dash ---------------------------------------------------------------------------------------------------

  // What Dash uses of a Storage, kept as long as the page.
  class MemoryStorage {
    getItem(key) {
      return Object.hasOwn(this, key) ? this[key] : null;
    }

    setItem(key, value) {
      this[key] = String(value);
    }

    removeItem(key) {
      delete this[key];
    }
  }

  // Dash reads both storages when it starts, and fails where the browser forbids them: in an iframe of another site.
  for (const name of ["localStorage", "sessionStorage"]) {
    try {
      window[name].getItem("");
    } catch {
      Object.defineProperty(window, name, { value: new MemoryStorage() });
    }
  }

  // Dash loads plotly.js from this address when the first graph appears. Ours is a bundle of a quarter of the size.
  Object.defineProperty(window, "_dashPlotlyJSURL", {
    get: () => document.documentElement.dataset.plotly,
    set: () => {},
  });

  // Dash records every change of a store for its undo buttons, which this page does not have, and never drops any:
  // the memory of an open page would grow by 20 MB a day.
  function clearUndoHistory() {
    for (const store of window.dash_stores) store.getState().history.past.length = 0;
  }

  function pathPrefix() {
    return JSON.parse(document.getElementById("_dash-config").textContent).requests_pathname_prefix;
  }

  // Whether a call of fetch() asks the server for the output of a callback, such as "live.data".
  function isCallbackRequest(input, options, output) {
    const body = options && typeof options.body === "string" ? options.body : "";
    return String(input.url || input).includes(UPDATE_PATH) && body.includes(output);
  }

  // What the `callback_resolved` hook knows of the callback with that output: {error} (a Response, or an Error if there
  // was no answer) or {data} (undefined if the answer was empty); null if the hook is about another callback.
  function callbackResult(callback, result, id, property) {
    if (!result || !callback.output.includes(`${id}.${property}`)) return null;
    if (result.error) return { error: result.error };
    return { data: result.data && result.data[id] ? result.data[id][property] : undefined };
  }

  // The value that Dash's persistence stored for a component, if any; dashtop 0.1 kept settings there.
  function readPersisted(storage, id) {
    const key = Object.keys(storage).find((each) => each.startsWith(`_dash_persistence.${id}.`));
    return key ? JSON.parse(storage.getItem(key))[0] : undefined;
  }

  // --- Plotly -------------------------------------------------------------------------------------------------

  // Whether a plot is drawn and has axes, so that it can show a pointer.
  function hasAxes(plot) {
    return Boolean(plot._fullLayout && plot._fullLayout._plots.xy);
  }

  // Pixels from the left edge of a plot at which its time axis shows `time`, a text such as "2026-11-29 02:04:09.000".
  function timeToPixel(plot, time) {
    const axis = plot._fullLayout.xaxis;
    return axis._offset + axis.d2p(time);
  }

  // What the time axis of a plot shows at a pixel, as text.
  function pixelToTime(plot, pixel) {
    const axis = plot._fullLayout.xaxis;
    return String(axis.p2d(pixel - axis._offset));
  }

  // Pixels of the left and the right end of the time axis.
  function plotEdges(plot) {
    const axis = plot._fullLayout.xaxis;
    return [axis._offset, axis._offset + axis._length];
  }

  function msPerPixel(plot) {
    const axis = plot._fullLayout.xaxis;
    return (axis._rl[1] - axis._rl[0]) / axis._length;
  }

  window.dashtop = {
    internals: {
      clearUndoHistory,
      pathPrefix,
      isCallbackRequest,
      callbackResult,
      readPersisted,
      hasAxes,
      timeToPixel,
      pixelToTime,
      plotEdges,
      msPerPixel,
    },
  };
})();
