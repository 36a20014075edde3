// The controls of the shown time: shift and zoom out, and a picker of a span from one moment to another. The span is a
// setting (assets/settings-store.js), so it is in the address, and Back undoes a change.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, times } = dashtop;
  const { make } = parts;
  const DAY_MS = 86_400_000;
  const RANGE_UNITS_MS = { m: 60_000, h: 3_600_000, d: DAY_MS };
  const SHIFT = 0.5; // of the span

  let controls = null;

  const find = (selector) => controls.querySelector(selector);
  const rangeMs = (range) => Number(range.slice(0, -1)) * RANGE_UNITS_MS[range.slice(-1)];
  const shownSpan = () => settings.span() || [Date.now() - rangeMs(settings.get("range")), Date.now()];

  // --- changes of the span --------------------------------------------------------------------------------------

  // A span that reaches the present is live.
  function shift(direction) {
    const [start, end] = shownSpan();
    const by = direction * SHIFT * (end - start);
    if (end + by >= Date.now()) settings.setSpan(null);
    else settings.setSpan(start + by, end + by);
  }

  function zoomOut() {
    const span = settings.span();
    if (!span) {
      const ranges = document.documentElement.dataset.ranges.split(" ");
      const wider = ranges[ranges.indexOf(settings.get("range")) + 1];
      if (wider) settings.set({ range: wider });
      return;
    }
    const length = span[1] - span[0];
    const end = Math.min(span[1] + length / 2, Date.now());
    settings.setSpan(end - 2 * length, end);
  }

  // The moment at which the day begins, `days` after that of `ms`. A day has 23 to 25 hours.
  function startOfDay(ms, days = 0) {
    const noon = new Date(Date.parse(`${times.date(ms)}T12:00:00Z`) + days * DAY_MS);
    return times.fromWall(`${noon.toISOString().slice(0, 10)} 00:00:00`);
  }

  function startOfWeek(now) {
    const weekday = new Date(`${times.date(now)}T12:00:00Z`).getUTCDay(); // 0: Sunday
    return startOfDay(now, -((weekday + 6) % 7));
  }

  const PRESETS = {
    "Last hour": (now) => [now - 3_600_000, now],
    Today: (now) => [startOfDay(now), now],
    Yesterday: (now) => [startOfDay(now, -1), startOfDay(now)],
    "This week": (now) => [startOfWeek(now), now],
  };

  // --- building -------------------------------------------------------------------------------------------------

  function addButton(parent, label, action, icon = "") {
    const button = make("button", icon ? "btn icon-button span-button" : "btn preset", parent, icon ? "" : label);
    button.type = "button";
    if (icon) {
      make("span", `icon icon-${icon}`, button).setAttribute("aria-hidden", "true");
      button.setAttribute("aria-label", label);
      button.dataset.tip = label;
    }
    button.addEventListener("click", action);
    return button;
  }

  function addField(form, name, label) {
    const row = make("label", "span-field", form);
    make("span", "", row, label);
    const input = make("input", "form-control", row);
    Object.assign(input, { type: "datetime-local", step: "1", name, required: true });
  }

  function buildPicker(parent) {
    const picker = make("details", "span-picker", parent);
    const summary = make("summary", "btn span-summary", picker);
    make("span", "icon icon-calendar", summary).setAttribute("aria-hidden", "true");
    make("span", "", summary, "From–to");
    const body = make("div", "span-body", picker);
    const presets = make("div", "span-presets", body);
    for (const [label, toSpan] of Object.entries(PRESETS)) addButton(presets, label, () => choose(...toSpan(Date.now())));
    const form = make("form", "span-form", body);
    addField(form, "from", "From");
    addField(form, "to", "To");
    const message = make("p", "span-message", form);
    message.setAttribute("role", "alert");
    make("button", "btn btn-primary", form, "Show").type = "submit";
    make("p", "span-zone", body).dataset.zone = "Times in ";
    form.addEventListener("submit", submit);
    form.addEventListener("input", () => parts.write(message, ""));
    picker.addEventListener("toggle", () => picker.open && fillFields());
  }

  function build() {
    addButton(controls, "Earlier", () => shift(-1), "earlier");
    addButton(controls, "Later", () => shift(1), "later");
    addButton(controls, "Zoom out", zoomOut, "zoom-out");
    buildPicker(controls);
  }

  // --- the picker -----------------------------------------------------------------------------------------------

  function fillFields() {
    const form = find("form");
    const [start, end] = shownSpan().map((ms) => times.toWall(ms).slice(0, 19).replace(" ", "T"));
    form.elements.from.value = start;
    form.elements.to.value = end;
    parts.write(find(".span-message"), "");
  }

  function close() {
    const picker = find("details");
    if (!picker.open) return;
    picker.open = false;
    if (picker.contains(document.activeElement)) find("summary").focus();
  }

  function choose(start, end) {
    close();
    settings.setSpan(start, end);
  }

  function describeProblem(start, end) {
    if (!(end > start)) return "From must be before To.";
    if (start > Date.now()) return "From is in the future.";
    return end - start >= 366 * DAY_MS ? "At most a year." : "";
  }

  function submit(event) {
    event.preventDefault();
    const { from, to } = event.target.elements;
    const [start, end] = [from, to].map(({ value }) => times.fromWall(value));
    const problem = describeProblem(start, end);
    parts.write(find(".span-message"), problem);
    if (!problem) choose(start, end);
  }

  document.addEventListener("click", (event) => {
    if (controls && !event.target.closest(".span-picker")) close();
  });
  document.addEventListener("keydown", (event) => {
    if (controls && event.key === "Escape") close();
  });

  // --- painting -------------------------------------------------------------------------------------------------

  function paint(snapshot) {
    const found = document.querySelector("[data-span-controls]");
    if (found && !found.firstChild) {
      controls = found;
      build();
    }
    const span = settings.span();
    const text = span ? `${snapshot.is_past ? "Paused" : "Zoomed"} · ${times.span(...span)}` : "";
    for (const element of document.querySelectorAll("[data-span]")) parts.write(element, text);
    for (const element of document.querySelectorAll("[data-when='Current']")) {
      parts.write(element, snapshot.is_past ? `At ${times.moment(snapshot.time)}` : "Current");
    }
    for (const element of document.querySelectorAll("[data-zone]")) parts.write(element, element.dataset.zone + times.zoneName());
  }

  painters.push(paint);
})();
