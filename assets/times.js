// Times on the page: in the time zone of the browser, of the server, or in UTC, as the user chooses. Moments are epoch
// milliseconds everywhere else; only this script converts them.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { settings } = dashtop;
  const root = document.documentElement;
  const DAY_MS = 86_400_000;
  const CHANGE_SEARCH_MS = 28 * DAY_MS; // clocks stay changed for longer
  const formatters = {};

  function isZone(name) {
    try {
      return Boolean(name && new Intl.DateTimeFormat("en", { timeZone: name }));
    } catch {
      return false;
    }
  }

  // Asking the browser takes 0.3 ms, and a page shows dozens of times. A traveller's zone changes while nobody looks.
  let knownZone = null;
  const browserZone = () => (knownZone ||= new Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");
  document.addEventListener("visibilitychange", () => (knownZone = null));
  // Older browsers know no zones such as "+02:00", which a server without a named zone has.
  const serverZone = isZone(root.dataset.serverZone) ? root.dataset.serverZone : browserZone();

  function zone() {
    const choice = settings.get("tz");
    if (choice === "utc") return "UTC";
    return choice === "server" ? serverZone : browserZone();
  }

  function formatterOf(name) {
    const digits = "2-digit";
    formatters[name] ||= new Intl.DateTimeFormat("en-US", {
      timeZone: name,
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: digits,
      minute: digits,
      second: digits,
    });
    return formatters[name];
  }

  // Milliseconds that the clocks of the chosen zone are ahead of UTC at a moment.
  function offset(ms) {
    const parts = Object.fromEntries(formatterOf(zone()).formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    const wall = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second);
    return wall - Math.floor(ms / 1000) * 1000;
  }

  // Whether clocks are changed between two moments.
  function hasClockChange(start, end) {
    const first = offset(start);
    for (let ms = start; ms < end; ms += CHANGE_SEARCH_MS) if (offset(ms) !== first) return true;
    return offset(end) !== first;
  }

  // "2026-11-29 02:04:09.000": what the clocks of the chosen zone show.
  function toWall(ms) {
    return new Date(ms + offset(ms)).toISOString().slice(0, -1).replace("T", " ");
  }

  // The moment at which the clocks show `text`; NaN if it is no time. A time that clocks skip is the one after it.
  function fromWall(text) {
    const wall = Date.parse(`${text.replace(" ", "T")}Z`);
    if (!Number.isFinite(wall)) return NaN;
    return wall - offset(wall - offset(wall));
  }

  const date = (ms) => toWall(ms).slice(0, 10);
  const time = (ms) => toWall(ms).slice(11, 19);
  const minutes = (ms) => toWall(ms).slice(11, 16);
  const isToday = (ms) => date(ms) === date(Date.now());
  // "02:04:09", with the date on another day than today
  const moment = (ms) => (isToday(ms) ? time(ms) : `${date(ms)} ${time(ms)}`);
  const span = (start, end) => `${moment(start)}–${date(start) === date(end) ? time(end) : moment(end)}`;

  dashtop.times = {
    zone,
    // "Europe/Berlin", "UTC"
    zoneName: () => zone().replaceAll("_", " "),
    offset,
    hasClockChange,
    toWall,
    fromWall,
    date,
    time,
    minutes,
    moment,
    span,
  };

  settings.onChange((names) => {
    if (!names.includes("tz")) return;
    dashtop.repaint();
    dashtop.charts.redraw();
  });
})();
