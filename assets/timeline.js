// What drawings over time share that are no charts: ticks of a time axis, a tip at a place, and the period in words.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { parts, settings, times } = dashtop;
  const { make, fit, write } = parts;
  const PERIODS = { "5m": "5 minutes", "15m": "15 minutes", "1h": "hour", "6h": "6 hours", "24h": "24 hours", "7d": "7 days", "30d": "30 days" };
  const [SECOND, MINUTE, HOUR] = [1000, 60_000, 3_600_000];
  const DAY = 24 * HOUR;
  const TICK_STEPS = [10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE]
    .concat([HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 5 * DAY, 7 * DAY, 14 * DAY, 30 * DAY]);
  const TICK_WIDTH_PX = 90;

  // "Nov 29", as the charts show it
  function formatDay(ms) {
    const day = new Date(`${times.date(ms)}T00:00Z`);
    return day.toLocaleString("en-US", { timeZone: "UTC", month: "short", day: "2-digit" });
  }

  // Adds lines at round times, with their texts below.
  function addTicks(plot, start, end) {
    const wanted = (end - start) / Math.max(2, plot.clientWidth / TICK_WIDTH_PX);
    const step = TICK_STEPS.find((each) => each >= wanted) || TICK_STEPS.at(-1);
    const offset = times.offset(start);
    for (let time = Math.ceil((start + offset) / step) * step - offset; time < end; time += step) {
      const share = (time - start) / (end - start);
      const tick = make("span", "timeline-tick", plot);
      tick.style.left = `${100 * share}%`;
      const clock = step < MINUTE ? times.time(time) : times.minutes(time);
      const text = step >= DAY || (end - start > DAY && clock === "00:00") ? formatDay(time) : clock;
      if (share < 0.96) make("span", "", tick, text);
    }
  }

  const findTip = () => document.querySelector(".timeline-tip");

  // Shows texts in a card, below `place`, a rectangle of the window.
  function showTip(card, place, texts) {
    const found = findTip();
    const tip = found && found.parentElement === card ? found : make("div", "timeline-tip", card);
    if (found && found !== tip) found.remove();
    fit(tip, texts.length, (parent) => make("div", "", parent));
    texts.forEach((text, position) => write(tip.children[position], text));
    tip.hidden = false;
    const box = card.getBoundingClientRect();
    const left = Math.min(Math.max((place.left + place.right) / 2 - box.left - tip.offsetWidth / 2, 8), box.width - tip.offsetWidth - 8);
    tip.style.left = `${left}px`;
    tip.style.top = `${place.bottom - box.top + 6}px`;
  }

  function hideTip() {
    const tip = findTip();
    if (tip) tip.hidden = true;
  }

  // "in the last hour", "in the chosen period"
  function describePeriod() {
    return settings.span() ? "in the chosen period" : `in the last ${PERIODS[settings.get("range")] || settings.get("range")}`;
  }

  dashtop.timeline = { addTicks, showTip, hideTip, describePeriod };
})();
