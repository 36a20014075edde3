// The page of alerts, and the count in the header. Texts hold names of processes, which are untrusted: everything is
// written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, times } = dashtop;
  const { make, fit, write, mark } = parts;
  const MINUTE_MS = 60_000;
  const HOUR_MS = 60 * MINUTE_MS;
  const DAY_MS = 24 * HOUR_MS;
  const MAX_SILENCE_MS = 30 * DAY_MS;
  // What "At that time" shows: charts of half an hour, and the values of its end, when the fault is still there.
  const BEFORE_MS = 29 * MINUTE_MS;
  const AFTER_MS = MINUTE_MS;
  const REQUEST_TIMEOUT_MS = 5000;
  const SILENCES = { "Silence 1 h": HOUR_MS, "Silence 8 h": 8 * HOUR_MS };
  const find = (name) => document.querySelector(`[data-${name}]`);

  // --- requests -----------------------------------------------------------------------------------------------

  function showError(text) {
    write(find("alerts-error"), text);
  }

  async function send(method, path, body) {
    const options = { method, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) };
    if (body) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    try {
      const answer = await fetch(dashtop.viewRequest.url(`api/v1/system/${path}`), options);
      const content = answer.status === 204 ? {} : await answer.json();
      showError(answer.ok ? "" : content.detail || "The server refused it.");
      dashtop.polling.requestNow();
      return answer.ok ? content : null;
    } catch {
      showError("The server does not answer. Try again.");
      return null;
    }
  }

  const viewer = () => document.querySelector(".app").dataset.viewer || "";

  function addSilence(alert, until) {
    return send("POST", "silences", { rule: alert.rule, gpu_uuid: alert.gpu_uuid, until, by: viewer() });
  }

  // --- links --------------------------------------------------------------------------------------------------

  // The address of the page that shows a GPU, or without one the host, around a moment.
  function addressAt(ms, device) {
    const to = Math.min(ms + AFTER_MS, Date.now());
    const span = `from=${Math.round(ms - BEFORE_MS)}&to=${Math.round(to)}`;
    return device ? `?page=gpus&view=single&gpu=${device.uuid}&${span}` : `?page=host&${span}`;
  }

  function paintLink(link, ms, device) {
    const address = addressAt(ms, device);
    if (link.dataset.go === address) return;
    link.href = address;
    link.dataset.go = address;
  }

  async function testChannel(button, name) {
    button.disabled = true;
    const answer = await send("POST", "notify/test", { channel: name });
    button.disabled = false;
    write(button, !answer ? "Test" : answer.ok ? "Sent" : "Failed");
    if (answer && !answer.ok) showError(`Channel ${name}: ${answer.error}`);
  }

  // --- firing -------------------------------------------------------------------------------------------------

  let alerts = [];
  const alertOf = (element) => alerts.find(({ id }) => id === element.closest("li").dataset.id);

  function addButton(parent, text, action) {
    const button = make("button", "btn btn-sm btn-light", parent, text);
    button.type = "button";
    button.addEventListener("click", () => action(button));
    return button;
  }

  function buildAlert(list) {
    const item = make("li", "alert-item", list);
    make("span", "severity", item);
    const body = make("div", "alert-body", item);
    make("p", "alert-text", body);
    make("p", "alert-advice", body);
    make("p", "alert-note", body);
    const buttons = make("div", "alert-buttons", item);
    const show = addButton(buttons, "Show GPU", () => dashtop.openGpu(alertOf(item).gpu));
    show.dataset.role = "gpu";
    const seen = addButton(buttons, "Acknowledge", () => send("POST", `alerts/${alertOf(item).id}/ack`, { by: viewer() }));
    seen.dataset.role = "seen";
    make("a", "btn btn-sm btn-light", buttons, "At that time").dataset.tip = "Show the values when it fired, and the charts of the half hour before";
    for (const [text, ms] of Object.entries(SILENCES)) addButton(buttons, text, () => addSilence(alertOf(item), Date.now() + ms)).dataset.role = "silence";
    const until = addButton(buttons, "Silence until…", () => openUntil(item));
    until.dataset.role = "silence";
    until.setAttribute("aria-expanded", "false");
  }

  // --- silence until a moment ---------------------------------------------------------------------------------

  const toInput = (ms) => times.toWall(ms).slice(0, 16).replace(" ", "T");

  function buildUntil(item) {
    const form = make("form", "until-form", item.querySelector(".alert-body"));
    form.hidden = true;
    const label = make("label", "", form, "Silence until");
    const input = make("input", "form-control", label);
    Object.assign(input, { type: "datetime-local", required: true });
    make("span", "until-zone", form);
    make("button", "btn btn-sm", form, "Silence").type = "submit";
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (await addSilence(alertOf(item), times.fromWall(input.value))) showUntil(item, false);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") showUntil(item, false);
    });
    return form;
  }

  function showUntil(item, visible) {
    item.querySelector(".until-form").hidden = !visible;
    const button = item.querySelector("[aria-expanded]");
    button.setAttribute("aria-expanded", String(visible));
    if (!visible && item.contains(document.activeElement)) button.focus();
  }

  function openUntil(item) {
    const form = item.querySelector(".until-form") || buildUntil(item);
    const input = form.querySelector("input");
    if (form.hidden) {
      const now = Date.now();
      Object.assign(input, { min: toInput(now + MINUTE_MS), max: toInput(now + MAX_SILENCE_MS - MINUTE_MS), value: toInput(now + DAY_MS) });
      write(form.querySelector(".until-zone"), times.zoneName());
    }
    showUntil(item, form.hidden);
    if (!form.hidden) input.focus();
  }

  function describeNote(alert) {
    const notes = [`Since ${times.moment(alert.since)}`];
    if (alert.recovering) notes.push("recovering");
    if (alert.acked_by !== null) notes.push(alert.acked_by ? `acknowledged by ${alert.acked_by}` : "acknowledged");
    if (alert.silenced) notes.push("silenced");
    if (alert.explained) notes.push("explained by another alert");
    return notes.join(" · ");
  }

  function paintAlert(item, alert, devices) {
    const form = item.querySelector(".until-form");
    if (form && item.dataset.id !== alert.id) showUntil(item, false); // the row is another alert's now
    item.dataset.id = alert.id;
    paintLink(item.querySelector("a"), alert.since, devices.find(({ index }) => index === alert.gpu));
    const severity = item.querySelector(".severity");
    write(severity, alert.severity);
    mark(severity, "severity", alert.severity);
    write(item.querySelector(".alert-text"), alert.text);
    write(item.querySelector(".alert-advice"), alert.advice);
    write(item.querySelector(".alert-note"), describeNote(alert));
    item.classList.toggle("is-quiet", alert.acked_by !== null || alert.silenced || alert.explained);
    item.querySelector("[data-role=gpu]").hidden = alert.gpu === null;
    item.querySelector("[data-role=seen]").hidden = alert.acked_by !== null;
    for (const button of item.querySelectorAll("[data-role=silence]")) {
      button.hidden = alert.silenced;
      button.dataset.tip = `No notices of "${alert.title}"${alert.gpu === null ? "" : ` on GPU ${alert.gpu}`} for this time`;
    }
  }

  function paintFiring(snapshot) {
    const list = find("alerts");
    if (!list || !snapshot.alerts || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    alerts = snapshot.alerts;
    fit(list, alerts.length, buildAlert);
    alerts.forEach((alert, position) => paintAlert(list.children[position], alert, snapshot.devices));
    write(find("alerts-empty"), alerts.length ? "" : "No alerts. Every rule is judged with each sample.");
  }

  // --- recent -------------------------------------------------------------------------------------------------

  function buildLogRow(body) {
    const row = make("tr", "", body);
    make("a", "", make("td", "", row)).dataset.tip = "Show the values of this moment, and the charts of the half hour before";
    make("span", "severity", make("td", "", row));
    make("td", "", row);
  }

  function paintLog(snapshot) {
    const body = find("alert-log");
    if (!body || !snapshot.alert_log || !dashtop.viewRequest.isShown(body.closest(".panel"))) return;
    const rows = snapshot.alert_log;
    fit(body, rows.length, buildLogRow);
    rows.forEach(([time, , severity, text, gpu], position) => {
      const [when, how, what] = body.children[position].children;
      write(when.firstElementChild, times.moment(time));
      paintLink(when.firstElementChild, time, gpu === null ? undefined : snapshot.devices.find(({ uuid }) => gpu.startsWith(uuid)));
      write(how.firstElementChild, severity);
      mark(how.firstElementChild, "severity", severity);
      write(what, text);
    });
    body.closest("table").hidden = rows.length === 0;
    write(find("log-empty"), rows.length ? "" : "No alert in the last seven days.");
  }

  // --- silences and channels ----------------------------------------------------------------------------------

  function buildEntry(list, text) {
    const item = make("li", "alert-item", list);
    make("div", "alert-body", item).append(make("p", "alert-text", item), make("p", "alert-note", item));
    make("div", "alert-buttons", item);
    addButton(item.lastElementChild, text, () => {});
    return item;
  }

  function paintEntry(item, title, note, isFailed) {
    write(item.querySelector(".alert-text"), title);
    write(item.querySelector(".alert-note"), note);
    item.classList.toggle("is-failed", isFailed);
  }

  function paintSilences(snapshot) {
    const list = find("silences");
    if (!list || !snapshot.silences || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    const gpuOf = (uuid) => snapshot.devices.find((device) => uuid.startsWith(device.uuid));
    fit(list, snapshot.silences.length, (parent) => buildEntry(parent, "End"));
    snapshot.silences.forEach((silence, position) => {
      const item = list.children[position];
      const gpu = silence.gpu_uuid === null ? "" : ` on ${gpuOf(silence.gpu_uuid) ? `GPU ${gpuOf(silence.gpu_uuid).index}` : silence.gpu_uuid}`;
      const by = silence.by ? ` · by ${silence.by}` : "";
      paintEntry(item, `${silence.title}${gpu}`, `Until ${times.moment(silence.until)}${by}${silence.reason ? ` · ${silence.reason}` : ""}`, false);
      item.querySelector("button").onclick = () => send("DELETE", `silences/${silence.id}`);
    });
    write(find("silences-empty"), snapshot.silences.length ? "" : "Nothing is silenced.");
  }

  function paintChannels({ channels }) {
    const list = find("channels");
    if (!list || !channels || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    fit(list, channels.length, (parent) => buildEntry(parent, "Test"));
    channels.forEach((channel, position) => {
      const item = list.children[position];
      const sent = channel.sent === null ? "nothing sent yet" : `last notice ${times.moment(channel.sent)}`;
      const waiting = channel.pending ? ` · ${channel.pending} waiting` : "";
      paintEntry(item, channel.name, `${channel.kind} · ${channel.error || sent}${waiting}`, Boolean(channel.error));
      item.querySelector("button").onclick = (event) => testChannel(event.target, channel.name);
    });
    write(find("channels-empty"), channels.length ? "" : "No channel: add one as [[notify]] to the settings file, and dashtop notifies a team by Slack, mail, ntfy, Teams or Alertmanager.");
  }

  // --- header -------------------------------------------------------------------------------------------------

  function paintBell({ alert_count: counted }) {
    const bell = document.getElementById("alert-bell");
    if (!bell || counted === undefined) return;
    const { count, worst } = counted || { count: 0, worst: "" };
    mark(bell, "severity", worst);
    write(bell.querySelector(".bell-count"), count ? String(Math.min(count, 99)) : "");
    const none = counted ? "Alerts: none" : "Alerts: not shown for a past moment";
    write(bell.querySelector("[data-bell-text]"), count ? `Alerts: ${count}, ${worst}` : none);
    bell.dataset.tip = counted ? "Alerts" : none;
  }

  painters.push(paintBell, paintFiring, paintLog, paintSilences, paintChannels);
})();
