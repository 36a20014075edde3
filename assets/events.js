// The page of events: the health timeline, the list of events and the memory errors of each GPU. Texts of events hold
// names of processes, which are untrusted: everything is written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, settings, timeline, times } = dashtop;
  const { make, fit, write } = parts;
  const embedded = document.documentElement.dataset.embed !== undefined;
  const withoutHover = window.matchMedia("(hover: none)");
  const FILTERS = ["event_gpu", "event_severity", "event_kind"];
  const MINUTE = 60_000;
  const ROWS = { events: "Events", state: "State", runs: "Runs", alerts: "Alerts", xid: "XID", ecc: "ECC", remap: "Row remap", throttle: "Throttling", link: "Link" };
  // In the order of the legend.
  const KINDS = {
    ok: "readable",
    lost: "lost",
    reset: "needs a reset",
    silent: "does not respond",
    absent: "no reading",
    gap: "not recorded",
    run: "run",
    "alert-critical": "alert, critical",
    "alert-warning": "alert, warning",
    "alert-info": "alert, info",
    "xid-critical": "XID, critical",
    "xid-warning": "XID, warning",
    "xid-info": "XID, info",
    "ecc-uncorrected": "ECC uncorrected",
    "ecc-corrected": "ECC corrected",
    "remap-failed": "row remap failed",
    "remap-pending": "reset pending",
    "throttle-hard": "HW slowdown",
    "throttle-soft": "SW thermal, reliability",
    "throttle-cap": "power cap",
    "link-down": "NVLink down",
    "link-slow": "PCIe below maximum under load",
    "note-critical": "event, critical",
    "note-warning": "event, warning",
    "note-info": "event",
  };

  // Shows the charts around a time, of a GPU if it is present, else of all.
  function showCharts(gpu, start, end) {
    if (embedded) return;
    const margin = Math.max(MINUTE, (end - start) / 2);
    const [from, to] = [start - margin, Math.min(end + margin, Date.now())].map((ms) => String(Math.round(ms)));
    const device = shown.devices.find(({ index }) => index === gpu);
    settings.set({ from, to, ...(device ? { page: "gpus", view: "single", gpu: device.uuid } : { page: "overview" }) });
  }

  let shown = null; // the newest snapshot

  // --- timeline -----------------------------------------------------------------------------------------------

  let drawn = null; // the timeline as it was sent
  let drawnZone = "";
  let marks = []; // {element, start, end, gpu, text, advice}, in the order of the page

  function showMarkTip(mark) {
    timeline.showTip(mark.element.closest(".card"), mark.element.getBoundingClientRect(), [times.span(mark.start, mark.end), mark.text, mark.advice]);
  }

  function addMark(track, lane, row, [first, last, kind, text], { start, step, end, texts }) {
    const count = (end - start) / step;
    const element = make("button", `mark mark-${kind}`, track);
    element.type = "button";
    element.tabIndex = -1;
    element.style.left = `${(100 * first) / count}%`;
    element.style.width = `${(100 * (last - first)) / count}%`;
    const mark = { element, lane, row, kind, gpu: lane.gpu, start: start + first * step, end: start + last * step, text: texts[text][0], advice: texts[text][1] };
    element.ariaLabel = `${lane.label}, ${ROWS[row]}: ${mark.text} ${times.span(mark.start, mark.end)}. ${mark.advice}`.trim();
    marks.push(mark);
  }

  function addLane(list, lane, sent) {
    const element = make("div", "lane", list);
    const label = make("span", "lane-label", element, lane.label);
    label.dataset.tip = lane.name;
    const rows = make("div", "lane-rows", element);
    for (const [row, spans] of lane.rows) {
      const line = make("div", "lane-row", rows);
      make("span", "lane-name", line, ROWS[row]);
      const track = make("div", `lane-track track-${row}`, line);
      for (const span of spans) addMark(track, lane, row, span, sent);
    }
  }

  function paintLegend() {
    const present = new Set(marks.map(({ kind }) => kind));
    const kinds = Object.keys(KINDS).filter((kind) => present.has(kind));
    const legend = document.querySelector("[data-timeline-legend]");
    legend.replaceChildren();
    for (const kind of kinds) {
      const item = make("span", "timeline-key", legend);
      make("i", `mark mark-${kind}`, item);
      make("span", "", item, KINDS[kind]);
    }
  }

  // Rebuilds the lanes, and returns the focus to the mark that had it.
  function paintTimeline(snapshot) {
    const list = document.querySelector("[data-timeline]");
    if (!list || !snapshot.health_timeline || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    if (snapshot.health_timeline === drawn && times.zone() === drawnZone) return;
    [drawn, drawnZone] = [snapshot.health_timeline, times.zone()];
    const focused = marks.find(({ element }) => element === document.activeElement);
    timeline.hideTip();
    marks = [];
    list.replaceChildren();
    for (const lane of drawn.lanes) addLane(list, lane, drawn);
    const plot = make("div", "timeline-plot", list);
    plot.ariaHidden = "true";
    timeline.addTicks(plot, drawn.start, drawn.end);
    if (drawn.lanes.length === 0) make("p", "table-empty", list, "No GPU: the timeline has a lane for each.");
    paintLegend();
    if (marks.length === 0) return;
    const same = focused && marks.find(({ lane, row, kind, end }) => lane.label === focused.lane.label && row === focused.row && kind === focused.kind && end > focused.start);
    (same || marks[0]).element.tabIndex = 0;
    if (same) same.element.focus();
  }

  const findMark = (event) => event.target.closest && event.target.closest("[data-timeline] .mark") && marks.find(({ element }) => element === event.target.closest(".mark"));

  function moveFocus(mark, key) {
    const [at, row] = [marks.indexOf(mark), mark.element.parentElement];
    const targets = {
      ArrowRight: () => marks[at + 1],
      ArrowLeft: () => marks[at - 1],
      ArrowDown: () => marks.slice(at).find(({ element }) => element.parentElement !== row),
      ArrowUp: () => marks.slice(0, at).findLast(({ element }) => element.parentElement !== row),
      Home: () => marks[0],
      End: () => marks.at(-1),
    };
    const next = targets[key] && targets[key]();
    if (!next) return false;
    mark.element.tabIndex = -1;
    next.element.tabIndex = 0;
    next.element.focus();
    return true;
  }

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") timeline.hideTip();
    const mark = findMark(event);
    if (mark && moveFocus(mark, event.key)) event.preventDefault();
  });
  for (const name of ["pointerover", "focusin"]) {
    document.addEventListener(name, (event) => {
      const mark = findMark(event);
      if (mark) showMarkTip(mark);
      else if (name === "pointerover") timeline.hideTip();
    });
  }
  document.addEventListener("focusout", (event) => findMark(event) && timeline.hideTip());
  document.addEventListener("click", (event) => {
    const mark = findMark(event);
    // Without a mouse, the tap that shows the text does not leave the page: a second one does.
    if (mark && (!withoutHover.matches || mark.wasTapped)) showCharts(mark.gpu, mark.start, mark.end);
    for (const each of marks) each.wasTapped = each === mark;
    const time = event.target.closest("[data-event-time]");
    if (time) showCharts(time.dataset.eventGpu === "" ? null : Number(time.dataset.eventGpu), Number(time.dataset.eventTime), Number(time.dataset.eventTime));
  });

  // --- list ---------------------------------------------------------------------------------------------------

  const PAGE_SIZE = 25;
  let pageCount = 1;

  function paintFilters(gpus) {
    for (const select of document.querySelectorAll("[data-event-filter]")) {
      const name = select.dataset.eventFilter;
      if (name === "event_gpu") {
        fit(select, gpus.length + 1, (parent) => make("option", "", parent));
        gpus.forEach(([index, gpu], position) => {
          select.children[position + 1].value = String(index);
          write(select.children[position + 1], `GPU ${index}: ${gpu || ""}`);
        });
      }
      const wanted = settings.get(name);
      // The address may name a list that is no choice of the menu.
      if (![...select.options].some(({ value }) => value === wanted)) select.append(new window.Option(wanted.replaceAll(",", ", "), wanted));
      if (select.value !== wanted && document.activeElement !== select) select.value = wanted;
    }
  }

  function buildEvent(body) {
    const row = make("tr", "", body);
    make("button", "event-time", make("td", "", row)).type = "button";
    make("td", "event-gpu", row);
    make("span", "severity", make("td", "", row));
    make("td", "event-kind", row);
    const cell = make("td", "event-text", row);
    make("span", "", cell);
    make("span", "event-advice", cell);
  }

  function paintEvent(row, [time, gpu, index, severity, kind, text, advice]) {
    const [timeCell, gpuCell, severityCell, kindCell, textCell] = row.children;
    const button = timeCell.firstElementChild;
    write(button, times.moment(time));
    button.dataset.eventTime = String(time);
    button.dataset.eventGpu = index === null ? "" : String(index);
    if (!embedded) button.dataset.tip = "Show the charts at this time";
    write(gpuCell, gpu);
    write(severityCell.firstElementChild, severity);
    severityCell.firstElementChild.dataset.severity = severity;
    write(kindCell, kind);
    write(textCell.children[0], text);
    write(textCell.children[1], advice);
  }

  function describeEmpty({ total, error }) {
    if (total) return "";
    if (error) return error;
    const isFiltered = FILTERS.some((name) => settings.get(name));
    return `${isFiltered ? "No matching events" : "No events"} ${timeline.describePeriod()}`;
  }

  function paintEvents(snapshot) {
    const body = document.querySelector("[data-events]");
    if (!body || !snapshot.events || !dashtop.viewRequest.isShown(body.closest(".panel"))) return;
    const { total, rows, gpus } = snapshot.events;
    paintFilters(gpus);
    write(document.querySelector("[data-events-empty]"), describeEmpty(snapshot.events));
    body.closest("table").hidden = total === 0;
    const visible = rows.slice(0, pageCount * PAGE_SIZE);
    fit(body, visible.length, buildEvent);
    visible.forEach((row, position) => paintEvent(body.children[position], row));
    const more = body.closest(".panel").querySelector("[data-events-more]");
    more.hidden = visible.length === rows.length;
    write(more, `Show more (${rows.length - visible.length})`);
    const isCut = total > rows.length && more.hidden;
    write(document.querySelector("[data-events-note]"), isCut ? `The newest ${rows.length} of ${total} events. Choose a shorter range or a filter to see the others.` : "");
  }

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-events-more]")) return;
    pageCount += 1;
    paintEvents(shown);
  });
  document.addEventListener("change", (event) => {
    if (!event.target.matches("[data-event-filter]")) return;
    pageCount = 1;
    settings.set({ [event.target.dataset.eventFilter]: event.target.value });
  });
  settings.onChange((names) => {
    if (names.some((name) => FILTERS.includes(name))) dashtop.polling.requestNow();
  });

  // --- memory errors ------------------------------------------------------------------------------------------

  let counted = null;

  function paintMemory(snapshot) {
    const table = document.querySelector("[data-memory-health]");
    if (!table || !snapshot.memory_health || snapshot.memory_health === counted) return;
    counted = snapshot.memory_health;
    const { columns, rows } = counted;
    table.hidden = rows.length === 0;
    write(document.querySelector("[data-memory-empty]"), rows.length ? "" : counted.empty);
    table.replaceChildren();
    const head = make("tr", "", make("thead", "", table));
    for (const title of ["GPU", ...columns]) make("th", title === "GPU" ? "" : "numeric", head, title).scope = "col";
    const body = make("tbody", "", table);
    for (const [index, name, ...counts] of rows) {
      const row = make("tr", "", body);
      make("th", "", row, `GPU ${index}`).scope = "row";
      row.firstElementChild.dataset.tip = name;
      const isUnsupported = counts.every(([text]) => text === "N/A");
      if (isUnsupported) make("td", "unknown", row, `N/A: ${counts[0][2]}`).colSpan = columns.length;
      for (const [text, severity, reason] of isUnsupported ? [] : counts) {
        const cell = make("td", "numeric", row, text);
        parts.mark(cell, "severity", severity);
        if (!reason) continue;
        cell.classList.add("unknown");
        cell.dataset.tip = reason;
      }
    }
  }

  painters.push((newest) => (shown = newest), paintTimeline, paintEvents, paintMemory);
})();
