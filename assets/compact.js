// The status at a glance: a clock of its own, and a request of its own whenever the page has not just been told the same,
// so that it goes on when the rest of the page does not.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const EVERY_MS = 2000;
  const OLD_MS = 3 * EVERY_MS;

  let frame = null;
  let received = 0;
  let asked = false;
  let chosen = 0; // when another GPU was

  function paint() {
    const bar = document.getElementById("compact-status");
    if (!bar || !frame) return;
    bar.dataset.gpu = frame.trouble ? "none" : "one";
    dashtop.parts.write(bar.querySelector(".compact-error"), frame.trouble);
    bar.dataset.old = String(1000 * Math.max(frame.age, frame.gpu_age) + performance.now() - received > OLD_MS);
    dashtop.paintValues(bar, frame);
  }

  function told() {
    const page = dashtop.polling.latest();
    if (!page || page.requestedAt < chosen || performance.now() - page.receivedAt > EVERY_MS) return false;
    frame = { ...page.snapshot, trouble: page.snapshot.words["gpu.trouble"] };
    received = page.receivedAt;
    paint();
    return true;
  }

  async function ask() {
    if (document.hidden || asked || !document.getElementById("compact-status") || told()) return;
    asked = true;
    try {
      const query = new URLSearchParams({ gpu: dashtop.state.get("gpu") });
      const answer = await fetch(`${dashtop.viewRequest.url("_compact")}?${query}`, { signal: AbortSignal.timeout(EVERY_MS) });
      const own = answer.ok ? await answer.json() : null;
      if (own) {
        frame = own;
        received = performance.now();
      }
    } catch {
      // Its numbers step back; the page says what is wrong.
    } finally {
      asked = false;
      paint();
    }
  }

  setInterval(ask, EVERY_MS);
  document.addEventListener("visibilitychange", ask);
  dashtop.state.onChange((names) => {
    if (names.includes("gpu")) {
      chosen = performance.now();
      ask();
    }
    paint();
  });

  function start() {
    if (document.getElementById("compact-status")) ask();
    else setTimeout(start, 100);
  }

  start();
})();
