// Throttle reasons, unsupported metrics and cards, and the facts of the information card.
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const NOT_SUPPORTED = "not supported by this device";
  const NOT_THROTTLED = { name: "Not throttled", meaning: "", severity: "" };

  function buildReason(list) {
    const item = parts.make("li", "throttle-reason", list);
    parts.make("strong", "throttle-reason-name", item);
    parts.make("span", "throttle-reason-meaning", item);
  }

  function paintThrottleReasons(snapshot) {
    const list = document.querySelector("[data-throttle-reasons]");
    if (!list) return;
    const active = snapshot.throttle_reasons;
    list.hidden = !active;
    const reasons = active && active.length ? active : [NOT_THROTTLED];
    parts.fit(list, reasons.length, buildReason);
    reasons.forEach(({ name, meaning, severity }, index) => {
      const item = list.children[index];
      parts.write(item.children[0], name);
      parts.write(item.children[1], meaning);
      parts.mark(item, "severity", severity);
    });
  }

  function isUnsupported(element, snapshot) {
    const keys = [...element.querySelectorAll("[data-metric]")].map((each) => each.dataset.metric);
    return keys.length > 0 && keys.every((key) => snapshot.missing[key] === NOT_SUPPORTED);
  }

  // A GPU does not support about a third of all metrics: list their names in one line instead of many N/A.
  function hideUnsupported(snapshot) {
    const line = document.querySelector("[data-unsupported]");
    if (!line) return;
    const names = [];
    for (const group of line.parentElement.querySelectorAll(".group")) {
      let visible = 0;
      for (const element of group.querySelectorAll(".fact, .metric-row")) {
        const hidden = isUnsupported(element, snapshot);
        if (element.hidden !== hidden) element.hidden = hidden; // setting the same value again would cost layout time
        if (hidden) names.push(element.querySelector("dt, .label").firstChild.textContent);
        else visible += 1;
      }
      if (group.hidden !== (visible === 0)) group.hidden = visible === 0;
    }
    line.hidden = names.length === 0;
    parts.write(line.firstElementChild, `${names.length} metrics not supported`);
    parts.write(line.lastElementChild, names.join(" · "));
  }

  // A card without any supported metric, as that of the fan of a passively cooled GPU, has a class that hides it.
  function markUnsupportedCards(snapshot) {
    for (const card of document.querySelectorAll(".gauge")) card.classList.toggle("is-unsupported", isUnsupported(card, snapshot));
  }

  function buildFact(list) {
    const item = parts.make("div", "fact", list);
    parts.make("dt", "", item);
    parts.make("dd", "number", item);
  }

  function paintFacts(snapshot) {
    const list = document.querySelector("[data-facts]");
    if (!list || !snapshot.facts) return;
    parts.fit(list, snapshot.facts.length, buildFact);
    snapshot.facts.forEach(([label, text], index) => {
      const [title, value] = list.children[index].children;
      parts.write(title, label);
      parts.write(value, text === null ? "N/A" : text);
      value.classList.toggle("missing", text === null);
      parts.mark(value, "tip", text || NOT_SUPPORTED);
    });
  }

  // The reasons why values are missing are the same object until one of them changes.
  let knownReasons = null;
  function paintUnsupported(snapshot) {
    if (snapshot.missing === knownReasons) return;
    knownReasons = snapshot.missing;
    hideUnsupported(snapshot);
    markUnsupportedCards(snapshot);
  }

  painters.push(paintThrottleReasons, paintUnsupported, paintFacts);
})();
