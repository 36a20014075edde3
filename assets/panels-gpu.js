// The page of one GPU: how its head is marked, the diagnosis, charts that are left out, and the folded details.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, times } = dashtop;
  const root = document.documentElement;
  const style = document.createElement("style");
  document.head.append(style);
  let paintedDiagnosis = null;
  let paintedZone = "";

  function paintHead({ gpu_head: head }) {
    parts.mark(root, "unreadable", head && head.is_unreadable ? "true" : "");
    const badge = document.querySelector("[data-condition]");
    if (!badge) return;
    if (badge.dataset.condition !== (head ? head.condition : "")) badge.dataset.condition = head ? head.condition : "";
    parts.mark(badge, "severity", head ? head.severity : "");
    parts.mark(document.querySelector("[data-throttle]"), "severity", head ? head.throttle : "");
    parts.mark(document.querySelector(".gpu-state"), "severity", head ? head.severity : "");
    parts.write(document.querySelector("[data-state-since]"), head && head.since ? ` Since ${times.moment(head.since)}.` : "");
  }

  // "97 % utilization, PCIe RX saturated: input-bound since 14:02". Each piece of evidence links to its chart.
  function paintDiagnosis({ diagnosis, time }) {
    const line = document.querySelector("[data-diagnosis]");
    if (!line || (diagnosis === paintedDiagnosis && paintedZone === times.zone())) return;
    [paintedDiagnosis, paintedZone] = [diagnosis, times.zone()];
    const known = diagnosis && diagnosis.verdict;
    line.parentElement.classList.toggle("is-empty", !known);
    parts.mark(line.parentElement, "severity", known ? diagnosis.severity : "");
    line.replaceChildren();
    if (!known) return;
    diagnosis.evidence.forEach(([text, chart], index) => {
      if (index) line.append(", ");
      const link = parts.make("a", "evidence", line, text);
      link.href = `#panel-${chart}`;
    });
    line.append(diagnosis.evidence.length ? ": " : "");
    const isToday = diagnosis.since && times.date(diagnosis.since) === times.date(time);
    const since = diagnosis.since ? ` since ${isToday ? times.minutes(diagnosis.since) : times.moment(diagnosis.since)}` : "";
    parts.make("strong", "", line, `${diagnosis.verdict}${diagnosis.is_long ? " for an hour or more" : since}`);
    if (diagnosis.note) parts.make("span", "diagnosis-note", line, ` ${diagnosis.note}`);
  }

  // Charts that this GPU has no values for; an embedded one stays, with the reason.
  let leftOut = "";
  function hideLeftOut(snapshot) {
    const ids = (snapshot.left_out || []).map((id) => `html:not([data-embed]) #${id}`).join();
    if (ids === leftOut) return;
    leftOut = ids;
    style.textContent = ids ? `${ids}{display:none!important}` : "";
    dashtop.polling.requestNow();
  }

  function applyDetails() {
    root.dataset.details = settings.get("details");
    const button = document.getElementById("details-toggle");
    if (button) button.setAttribute("aria-expanded", String(settings.get("details") === "open"));
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("#details-toggle")) {
      settings.set({ details: settings.get("details") === "open" ? "closed" : "open" });
    }
    const link = event.target.closest(".evidence");
    if (!link) return;
    event.preventDefault(); // no step in the browser's history, and below the head
    const panel = document.querySelector(link.getAttribute("href"));
    if (!panel) return;
    panel.scrollIntoView({ block: "center" });
    panel.querySelector(".chart").focus({ preventScroll: true });
  });
  settings.onChange((names) => {
    if (!names.includes("details")) return;
    applyDetails();
    dashtop.polling.requestNow();
  });

  painters.push(paintHead, paintDiagnosis, hideLeftOut, applyDetails);
})();
