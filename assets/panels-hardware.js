// What holds the clocks down, in words; what a device does not tell, folded into one line; and plain facts.
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const NEVER = "not supported by this device";

  function buildLimit(list) {
    const item = parts.make("li", "limit", list);
    parts.make("strong", "limit-name", item);
    parts.make("span", "limit-meaning", item);
  }

  function paintLimits(frame) {
    const list = document.querySelector("[data-limits]");
    if (!list) return;
    const limits = frame.limits || [];
    list.hidden = !frame.limits;
    const shown = limits.length ? limits : [["Not throttled", "", ""]];
    parts.fit(list, shown.length, buildLimit);
    shown.forEach(([name, meaning, severity], index) => {
      const [title, words] = list.children[index].children;
      parts.write(title, name);
      parts.write(words, meaning);
      parts.mark(list.children[index], "severity", severity);
    });
  }

  function untold(element, frame) {
    const keys = [...element.querySelectorAll("[data-metric]")].map((each) => each.dataset.metric);
    return keys.length > 0 && keys.every((key) => frame.missing[key] === NEVER);
  }

  // A GPU lacks a third of what there is to show: that is one quiet line, not twenty times N/A.
  function foldUntold(frame) {
    const line = document.querySelector("[data-untold]");
    if (!line) return;
    const names = [];
    for (const group of line.parentElement.querySelectorAll(".group")) {
      let left = 0;
      for (const element of group.querySelectorAll(".fact, .metric-row")) {
        const gone = untold(element, frame);
        if (element.hidden !== gone) element.hidden = gone; // to hide once more is a change to the browser as well
        if (gone) names.push(element.querySelector("dt, .label").firstChild.textContent);
        else left += 1;
      }
      if (group.hidden !== (left === 0)) group.hidden = left === 0;
    }
    line.hidden = names.length === 0;
    parts.write(line.firstElementChild, `${names.length} metrics not supported`);
    parts.write(line.lastElementChild, names.join(" · "));
  }

  function buildFact(list) {
    const item = parts.make("div", "fact", list);
    parts.make("dt", "", item);
    parts.make("dd", "number", item);
  }

  function paintFacts(frame) {
    const list = document.querySelector("[data-facts]");
    if (!list || !frame.facts) return;
    parts.fit(list, frame.facts.length, buildFact);
    frame.facts.forEach(([name, known], index) => {
      const [title, value] = list.children[index].children;
      parts.write(title, name);
      parts.write(value, known === null ? "N/A" : known);
      value.classList.toggle("missing", known === null);
      if (value.title !== (known || NEVER)) value.title = known || NEVER;
    });
  }

  painters.push(paintLimits, foldUntold, paintFacts);
})();
