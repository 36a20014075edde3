// The status at a glance: a clock and a request of its own, so that it goes on when the rest of the page does not.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const EVERY_MS = 2000;
  const OLD_MS = 3 * EVERY_MS;

  let frame = null;
  let received = 0;
  let asked = false;

  function paint() {
    const bar = document.getElementById("compact-status");
    if (!bar || !frame) return;
    bar.dataset.gpu = frame.trouble ? "none" : "one";
    dashtop.parts.write(bar.querySelector(".trouble"), frame.trouble);
    bar.dataset.old = String(1000 * Math.max(frame.age, frame.gpu_age) + performance.now() - received > OLD_MS);
    dashtop.paintValues(bar, frame);
  }

  async function ask() {
    if (document.hidden || asked || !document.getElementById("compact-status")) return;
    asked = true;
    try {
      const query = new URLSearchParams({ gpu: dashtop.state.get("gpu") });
      const answer = await fetch(`${dashtop.view.url("_compact")}?${query}`, { signal: AbortSignal.timeout(EVERY_MS) });
      const told = answer.ok ? await answer.json() : null;
      if (told) {
        frame = told;
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
    if (names.includes("gpu")) ask();
    paint();
  });

  function start() {
    if (document.getElementById("compact-status")) ask();
    else setTimeout(start, 100);
  }

  start();
})();
