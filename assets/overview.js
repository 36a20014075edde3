// The overview without its table: health, totals, newest events, and the title of the document.
// Data: app/dashtop/ui/overview_data.py. Names and texts are untrusted: they are written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings } = dashtop;
  const { make, fit, write } = parts;
  const root = document.documentElement;
  const NONE = "‒";
  const MINUTE_MS = 60_000;
  const HOUR_MS = 60 * MINUTE_MS;
  const DAY_MS = 24 * HOUR_MS;
  const MAX_LISTED = 8; // problems that are in sight at once (assets/overview.css)
  const MAX_LISTED_ON_PHONE = 2;
  const MIN_KILOWATTS = 10_000; // W

  // "3 min", "2 h", "5 d"
  function formatDuration(ms) {
    if (ms < MINUTE_MS) return "< 1 min";
    if (ms < 2 * HOUR_MS) return `${Math.floor(ms / MINUTE_MS)} min`;
    return ms < 2 * DAY_MS ? `${Math.floor(ms / HOUR_MS)} h` : `${Math.floor(ms / DAY_MS)} d`;
  }

  // "12:40 · 2 h"; "11-27 · 2 d"; "> 2 h" if it is not known when it began; "" if nothing is known.
  function formatSince(since, now, isExact = true) {
    if (since === null || since === undefined) return "";
    const duration = formatDuration(Math.max(now - since, 0));
    if (!isExact) return `> ${duration.replace("< ", "")}`;
    const { times } = dashtop;
    const moment = times.date(since) === times.date(now) ? times.minutes(since) : times.date(since).slice(5);
    return `${moment} · ${duration}`;
  }

  const hasPage = (name) => root.dataset.pages.split(" ").includes(name);
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  // --- health -----------------------------------------------------------------------------------------------------

  function buildProblem(list) {
    const item = make("li", "problem", list);
    make("span", "problem-mark", item).setAttribute("aria-hidden", "true");
    make("a", "problem-name", item);
    make("span", "problem-text", item);
    make("span", "problem-since", item);
    make("span", "problem-advice", item);
  }

  // The name links to the GPU, or to the page of the host.
  function linkProblem(link, problem, devices) {
    const device = devices.find(({ index }) => index === problem.gpu);
    if (device) {
      link.href = `?page=gpus&view=single&gpu=${device.uuid}`;
      parts.mark(link, "openGpu", String(problem.gpu));
      parts.mark(link, "go", "");
      return;
    }
    const page = { Host: "host", History: "", dashtop: "" }[problem.name] ?? "gpus";
    parts.mark(link, "openGpu", "");
    if (page && hasPage(page)) {
      link.href = `?page=${page}`;
      parts.mark(link, "go", `?page=${page}`);
    } else {
      link.removeAttribute("href");
      parts.mark(link, "go", "");
    }
  }

  function paintProblem(item, problem, snapshot) {
    parts.mark(item, "severity", problem.severity);
    linkProblem(item.querySelector(".problem-name"), problem, snapshot.devices);
    write(item.querySelector(".problem-name"), problem.name);
    write(item.querySelector(".problem-text"), problem.text);
    write(item.querySelector(".problem-since"), formatSince(problem.since, snapshot.time, problem.is_since_exact));
    write(item.querySelector(".problem-advice"), problem.advice);
    parts.mark(item.querySelector(".problem-advice"), "tip", problem.advice);
  }

  // What the machine consists of: "8 GPUs, host and history".
  function describeHealthy({ devices, notice }) {
    if (devices.length) return `${count(devices.length, "GPU")}, host and history`;
    return `Host and history · ${(notice && notice.title) || "No GPU detected"}`;
  }

  function paintHealth(snapshot) {
    const card = document.getElementById("panel-problems");
    const { problems } = snapshot;
    if (!card || !problems) return;
    const worst = problems.length ? problems[0].severity : "";
    parts.mark(card, "severity", worst);
    // The list scrolls: the number says how many there are.
    card.classList.toggle("is-long", problems.length > MAX_LISTED);
    card.classList.toggle("is-long-on-phone", problems.length > MAX_LISTED_ON_PHONE);
    write(card.querySelector("[data-health-title]"), problems.length ? count(problems.length, "problem") : "All healthy");
    write(card.querySelector("[data-health-detail]"), problems.length ? "" : describeHealthy(snapshot));
    const list = card.querySelector("[data-problems]");
    fit(list, problems.length, buildProblem);
    problems.forEach((problem, at) => paintProblem(list.children[at], problem, snapshot));
  }

  // --- totals -----------------------------------------------------------------------------------------------------

  const part = (value, unit, digits) => {
    const { value: shown, symbol } = dashtop.units.convert(value, unit);
    return shown === null ? [NONE, ""] : [shown.toFixed(digits), symbol];
  };

  function pair(value, total, unit) {
    if (unit === "W" && Math.max(value, total) >= MIN_KILOWATTS) {
      const [shown, all] = [value, total].map((watts) => (watts === null ? NONE : (watts / 1000).toFixed(1)));
      return [shown, total === null ? " kW" : ` / ${all} kW`];
    }
    const [shown, symbol] = part(value, unit, 0);
    return total === null ? [shown, ` ${symbol}`] : [shown, ` / ${part(total, unit, 0).join(" ")}`];
  }

  const share = (value, total) => (value === null || !total ? null : (100 * value) / total);

  // Returns by tile [number, rest of the line, percent of the bar, level of the bar].
  function describeTotals(totals) {
    const { memory_used: used, memory_total: total, power, power_limit: limit } = totals;
    const [degrees, degree] = part(totals.temperature, "°C", 0);
    const limitText = totals.temperature_limit === null ? "" : ` / ${part(totals.temperature_limit, "°C", 0)[0]}`;
    const hottest = totals.hottest === null ? "" : `${limitText} ${degree} · GPU ${totals.hottest}`;
    return {
      free: [String(totals.free), ` of ${totals.free + totals.idle_held + totals.busy}`],
      idle_held: [String(totals.idle_held), ""],
      busy: [String(totals.busy), ""],
      unavailable: [String(totals.unavailable), ""],
      vram: [...pair(used, total, "GiB"), share(used, total)],
      power: [...pair(power, limit, "W"), share(power, limit)],
      hottest: [degrees, hottest, share(totals.temperature, totals.temperature_limit), totals.temperature_level],
      disk: [totals.disk_percent === null ? NONE : totals.disk_percent.toFixed(0), totals.disk === null ? "" : ` % · ${totals.disk}`, totals.disk_percent, totals.disk_level],
    };
  }

  // The totals in the header, of a snapshot or of the status that is requested without one (assets/compact.js).
  dashtop.paintTotals = function (bar, { totals: [totals] = [] }) {
    if (!totals) return;
    const { vram, hottest } = describeTotals(totals);
    const usable = totals.free + totals.idle_held + totals.busy;
    const texts = { free: `${totals.free} of ${usable} free`, vram: vram.slice(0, 2).join(""), hottest: `${hottest[0]} ${dashtop.units.convert(null, "°C").symbol}` };
    for (const element of bar.querySelectorAll("[data-total]")) {
      write(element, texts[element.dataset.total]);
      element.parentElement.hidden = texts[element.dataset.total].startsWith(NONE);
    }
  };

  function paintTotals(snapshot) {
    const [totals] = snapshot.totals || [];
    if (!totals) return;
    const described = describeTotals(totals);
    // The memory of GPUs that have none of their own is the host's.
    if (snapshot.devices.length && snapshot.devices.every((device) => device.shares_host_memory)) described.vram = [NONE, " shared with host", null];
    for (const tile of document.querySelectorAll("[data-tile]")) {
      const [number, rest, percent, level] = described[tile.dataset.tile];
      write(tile.querySelector(".number"), number);
      write(tile.querySelector(".tile-rest"), rest);
      tile.classList.toggle("is-zero", number === "0");
      const bar = tile.querySelector(".bar");
      if (!bar) continue;
      parts.fill(bar, percent, level || "");
      bar.classList.toggle("is-unknown", bar.getAttribute("aria-valuenow") === null);
    }
    const usable = totals.free + totals.idle_held + totals.busy;
    for (const element of document.querySelectorAll("[data-free-count]")) {
      write(element, `${totals.free} of ${usable} free`);
      element.classList.toggle("has-free", totals.free > 0);
    }
  }

  // --- events -----------------------------------------------------------------------------------------------------

  function buildEvent(list) {
    const item = make("li", "recent-event", list);
    make("time", "", item);
    make("span", "recent-event-mark", item).setAttribute("aria-hidden", "true");
    make("a", "recent-event-gpu", item);
    make("span", "recent-event-text", item);
  }

  function paintEvent(item, event, snapshot) {
    const [time, , link, text] = item.children;
    parts.mark(item, "severity", event.severity);
    write(time, dashtop.times.moment(event.time));
    time.dateTime = new Date(event.time).toISOString();
    linkProblem(link, { gpu: event.gpu, name: "History" }, snapshot.devices);
    write(link, event.gpu === null ? "Host" : `GPU ${event.gpu}`);
    write(text, event.text);
    parts.mark(text, "tip", event.text);
  }

  function paintEvents(snapshot) {
    const list = document.querySelector("[data-recent-events]");
    const { recent_events: events } = snapshot;
    if (!list || !events) return;
    fit(list, events.length, buildEvent);
    events.forEach((event, at) => paintEvent(list.children[at], event, snapshot));
    document.querySelector("[data-no-events]").hidden = events.length > 0;
    list.closest(".panel").querySelector("[data-page-link]").hidden = !hasPage("events");
  }

  // --- controls and title -----------------------------------------------------------------------------------------

  // Controls without a callback of Dash: `data-setting` names the setting that they choose.
  function showSettings() {
    for (const control of document.querySelectorAll("[data-setting]")) {
      if (control.value !== settings.get(control.dataset.setting)) control.value = settings.get(control.dataset.setting);
    }
  }

  document.addEventListener("change", (event) => {
    const { setting } = event.target.dataset;
    if (!setting) return;
    settings.set({ [setting]: event.target.value });
    dashtop.polling.requestNow();
  });

  function writeTitle({ status }) {
    if (!status || root.dataset.embed !== undefined) return;
    const host = document.querySelector(".host-name").textContent;
    const { free, problems } = status;
    const title = [host, free ? `${free} free` : "", problems ? count(problems, "problem") : ""].filter(Boolean).join(" · ");
    if (document.title !== title) document.title = title;
  }

  dashtop.formatSince = formatSince;
  painters.push(showSettings, paintHealth, paintTotals, paintEvents, writeTitle);
})();
