// The compact status in the header. It has its own timer, and its own request if the page has no recent snapshot, so it
// keeps working when the rest of the page does not.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const INTERVAL_MS = 2000;
  const STALE_AFTER_MS = 3 * INTERVAL_MS;

  let status = null;
  let receivedAt = 0;
  let isRequesting = false;
  let gpuChosenAt = 0;

  function findBar() {
    return document.getElementById("compact-status");
  }

  function paint() {
    const bar = findBar();
    if (!bar || !status) return;
    bar.dataset.gpu = status.error ? "none" : "one";
    dashtop.parts.write(bar.querySelector(".compact-error"), status.error);
    dashtop.parts.mark(bar.querySelector(".compact-error"), "severity", status.severity);
    const ageMs = 1000 * Math.max(status.age, status.gpu_age) + performance.now() - receivedAt;
    bar.dataset.old = String(ageMs > STALE_AFTER_MS);
    dashtop.paintValues(bar, status);
    dashtop.paintTotals(bar, status);
  }

  // Takes the values from the snapshot of the page, if it is recent and of the chosen GPU.
  function usePageSnapshot() {
    const page = dashtop.polling.latest();
    if (!page || page.requestedAt < gpuChosenAt || performance.now() - page.receivedAt > INTERVAL_MS) return false;
    status = { ...page.snapshot, error: page.snapshot.texts["gpu.error"], severity: page.snapshot.texts["gpu.severity"] };
    receivedAt = page.receivedAt;
    paint();
    return true;
  }

  async function update() {
    if (document.hidden || isRequesting || !findBar() || usePageSnapshot()) return;
    isRequesting = true;
    try {
      const query = new URLSearchParams({ gpu: dashtop.settings.get("gpu") });
      const url = `${dashtop.viewRequest.url("_compact")}?${query}`;
      const answer = await fetch(url, { signal: AbortSignal.timeout(INTERVAL_MS) });
      const received = answer.ok ? await answer.json() : null;
      if (received) {
        status = received;
        receivedAt = performance.now();
      }
    } catch {
      // The values become grey; the error banner of the page shows the reason.
    } finally {
      isRequesting = false;
      paint();
    }
  }

  setInterval(update, INTERVAL_MS);
  document.addEventListener("visibilitychange", update);
  dashtop.settings.onChange((names) => {
    if (names.includes("gpu")) {
      gpuChosenAt = performance.now();
      update();
    }
    paint();
  });

  function start() {
    if (findBar()) update();
    else setTimeout(start, 100);
  }

  start();
})();
