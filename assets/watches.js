// "Notify me when this GPU is free", "Notify me when this process ends", and "This is a service": buttons, and the dialog
// that they open. Names of processes are untrusted: everything is written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, times } = dashtop;
  const { make, write } = parts;
  const REQUEST_TIMEOUT_MS = 5000;
  const HELP = {
    gpu_free: "Free: no process has computed on it for a minute, and at most 5 % of its memory is in use.",
    process_end: "It ends, or holds no GPU memory any more.",
  };
  const SERVICE_HELP = "A service may hold GPU memory without computing: no alert is sent about it, nor about others with its owner, name and container.";

  let snapshot = null;
  let dialog = null;
  let subject = null; // {kind, gpu} or {kind, process}

  const viewer = () => document.querySelector(".app").dataset.viewer || "";

  // Returns what the server says; throws an Error whose message is for the user.
  async function send(method, path, body) {
    const options = { method, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) };
    if (body) Object.assign(options, { body: JSON.stringify({ ...body, by: viewer() }), headers: { "Content-Type": "application/json" } });
    let answer;
    try {
      answer = await fetch(dashtop.viewRequest.url(`api/v1/system/${path}`), options);
    } catch {
      throw new Error("The server does not answer. Try again.");
    }
    const content = answer.status === 204 ? {} : await answer.json();
    if (!answer.ok) throw new Error(content.detail || "The server refused it.");
    dashtop.polling.requestNow();
    return content;
  }

  // --- dialog -------------------------------------------------------------------------------------------------

  const THIS_BROWSER = ""; // no name of a channel is empty

  function build() {
    dialog = make("dialog", "table-dialog watch-dialog", document.body);
    dialog.setAttribute("aria-labelledby", "watch-title");
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    const header = make("div", "dialog-header", dialog);
    make("h2", "", header).id = "watch-title";
    const close = make("button", "btn btn-sm", header, "Close");
    close.type = "button";
    close.addEventListener("click", () => dialog.close());
    const form = make("form", "watch-form", dialog);
    make("p", "watch-help", form);
    const label = make("label", "", form, "Tell");
    make("select", "form-select", label);
    Object.assign(make("button", "btn", form), { type: "submit", autofocus: true });
    make("p", "alert-note", form);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run(watch);
    });
    const status = make("div", "watch-status", dialog);
    make("p", "", status).setAttribute("role", "status");
    addButton(status, "allow", "Turn notifications on", allow);
    addButton(status, "cancel", "Cancel", cancel);
    const service = make("div", "watch-service", dialog);
    make("p", "", service, SERVICE_HELP);
    const toggle = make("button", "btn", service);
    toggle.type = "button";
    toggle.addEventListener("click", () => run(toggleService).then((isDone) => isDone && dialog.close()));
    make("p", "alert-error", dialog).setAttribute("role", "alert");
  }

  function addButton(parent, role, text, action) {
    const button = make("button", "btn", parent, text);
    button.type = "button";
    button.dataset.role = role;
    button.addEventListener("click", () => run(action));
  }

  const find = (selector) => dialog.querySelector(selector);

  // Returns whether the action succeeded.
  async function run(action) {
    for (const button of dialog.querySelectorAll("button")) button.disabled = true;
    write(find(".alert-error"), "");
    try {
      await action();
      return true;
    } catch (error) {
      write(find(".alert-error"), error.message);
      return false;
    } finally {
      for (const button of dialog.querySelectorAll("button")) button.disabled = false;
      paintDialog();
    }
  }

  async function watch() {
    const target = find("select").value;
    if (target === THIS_BROWSER) await dashtop.notifications.allow(); // first: browsers ask after a click only
    const { kind, gpu, process } = subject;
    const about = kind === "gpu_free" ? { gpu_uuid: gpu.uuid } : { pid: process.pid, started: process.started_ms };
    const { id } = await send("POST", "watches", { kind, ...about, channel: target === THIS_BROWSER ? null : target });
    if (target === THIS_BROWSER) dashtop.notifications.expect(id);
    const added = { id, kind, gpu_uuid: gpu ? gpu.uuid : null, pid: process ? process.pid : null, channel: target === THIS_BROWSER ? null : target };
    snapshot.open_watches = [...(snapshot.open_watches || []), added]; // until the next snapshot has it
    find("[data-role=cancel]").disabled = false;
  }

  async function allow() {
    await dashtop.notifications.allow();
    dashtop.notifications.follow();
  }

  async function remove(id) {
    await send("DELETE", `watches/${id}`);
    dashtop.notifications.forget(id);
    snapshot.open_watches = (snapshot.open_watches || []).filter((each) => each.id !== id);
  }

  const cancel = () => remove(findWatch(subject).id);

  // --- watches that exist -------------------------------------------------------------------------------------

  const isOwn = ({ id, channel }) => channel !== null || dashtop.notifications.isOwn(id); // a channel is for everybody

  // The page knows the beginning of a UUID.
  function findWatch({ kind, gpu, process }) {
    const isAbout = (each) => (kind === "gpu_free" ? each.gpu_uuid.startsWith(gpu.uuid) : each.pid === process.pid);
    return (snapshot.open_watches || []).find((each) => each.kind === kind && isAbout(each) && isOwn(each));
  }

  function describeTarget({ channel }) {
    if (channel !== null) return `by the channel ${channel}.`;
    if (dashtop.notifications.isAllowed()) return "by this browser: a tab of dashtop has to stay open, also in the background.";
    return `by this browser, but its notifications are off. ${dashtop.notifications.obstacle()}`.trim();
  }

  // The form, or the watch that exists.
  function paintDialog() {
    if (!dialog || !dialog.open) return;
    const found = findWatch(subject);
    find("form").hidden = Boolean(found);
    find(".watch-status").hidden = !found;
    if (!found) return;
    write(find(".watch-status p"), `You will be notified when ${subject.kind === "gpu_free" ? "it is free" : "it ends"}, ${describeTarget(found)}`);
    find("[data-role=allow]").hidden = found.channel !== null || dashtop.notifications.isAllowed() || dashtop.notifications.obstacle() !== "";
  }

  function markWatched(button, about, text) {
    const isWatched = Boolean(about && findWatch(about));
    parts.mark(button, "watched", isWatched ? "true" : "");
    const shown = isWatched ? text.replace("Notify me", "You will be notified") : text;
    if (button.dataset.tip !== undefined) parts.mark(button, "tip", shown);
    if (button.hasAttribute("aria-label")) button.setAttribute("aria-label", button.dataset.watchGpu ? shown.replace("it is", `GPU ${button.dataset.watchGpu} is`) : button.getAttribute("aria-label"));
    return shown;
  }

  function paintMarks() {
    for (const button of document.querySelectorAll(".row-watch")) {
      const gpu = deviceOf(Number(button.dataset.watchGpu));
      markWatched(button, gpu && { kind: "gpu_free", gpu }, "Notify me when it is free");
    }
    for (const button of document.querySelectorAll(".process-menu[data-watch-pid]")) {
      parts.mark(button, "watched", findWatch({ kind: "process_end", process: { pid: Number(button.dataset.watchPid) } }) ? "true" : "");
    }
  }

  async function toggleService() {
    const { process } = subject;
    if (process.service) await send("DELETE", `services/${process.service}`);
    else await send("POST", "services", { pid: process.pid, started: process.started_ms });
  }

  function fillTargets() {
    const obstacle = dashtop.notifications.obstacle();
    const channels = snapshot.channel_names || [];
    const select = find("select");
    select.replaceChildren();
    if (!obstacle) make("option", "", select, "this browser").value = THIS_BROWSER;
    for (const name of channels) make("option", "", select, name).value = name;
    select.parentElement.hidden = select.options.length === 0;
    find("form [type=submit]").hidden = select.options.length === 0;
    write(find(".alert-note"), obstacle && channels.length ? "" : obstacle);
  }

  function open(about) {
    if (!dialog) build();
    subject = about;
    const { kind, gpu, process } = about;
    const name = process && `${process.name || "Process"}${process.user ? ` of ${process.user}` : ""} · PID ${process.pid}`;
    write(find("h2"), kind === "gpu_free" ? `GPU ${gpu.index} · ${gpu.name}` : name);
    write(find(".watch-help"), `${kind === "gpu_free" ? "Tell once when this GPU is free." : "Tell once when this process ends."} ${HELP[kind]}`);
    write(find("form [type=submit]"), kind === "gpu_free" ? "Notify me when it is free" : "Notify me when it ends");
    write(find(".alert-error"), "");
    find(".watch-service").hidden = kind === "gpu_free";
    if (process) write(find(".watch-service button"), process.service ? "No longer a service" : "This is a service");
    fillTargets();
    dialog.showModal();
    paintDialog();
    (find("form").hidden ? find("[data-role=cancel]") : find("form [type=submit]")).focus();
  }

  const deviceOf = (wanted) => snapshot.devices.find(({ index }) => index === wanted);
  const openGpu = (index) => open({ kind: "gpu_free", gpu: deviceOf(index) });

  function openProcess(pid) {
    const process = [...(snapshot.processes || []), ...(snapshot.all_processes || [])].find((each) => each.pid === pid);
    if (process) open({ kind: "process_end", process });
  }

  dashtop.watches = { openProcess };

  document.addEventListener("click", (event) => {
    if (!snapshot) return;
    const button = event.target.closest("[data-watch-gpu], [data-watch-pid]");
    if (!button) return;
    if (button.dataset.watchPid && dashtop.processActions.isEnabled()) dashtop.processActions.openMenu(button);
    else if (button.dataset.watchPid) openProcess(Number(button.dataset.watchPid));
    else openGpu(button.dataset.watchGpu === "" ? snapshot.gpu : Number(button.dataset.watchGpu));
  });

  // --- painting -----------------------------------------------------------------------------------------------

  // A GPU that is free; one that a person has to reset first.
  const IS_POINTLESS = new Set(["free", "split", "lost", "not_responding"]);

  const canWait = () => !snapshot.is_past && !snapshot.isStored;

  function paintHead() {
    const button = document.querySelector("#gpu-heading [data-watch-gpu]");
    if (!button) return;
    const head = snapshot.gpu_head;
    button.hidden = !head || IS_POINTLESS.has(head.condition) || !canWait();
    const gpu = deviceOf(snapshot.gpu);
    write(button, markWatched(button, gpu && { kind: "gpu_free", gpu }, "Notify me when free"));
  }

  function buildEntry(list) {
    const item = make("li", "alert-item", list);
    const body = make("div", "alert-body", item);
    make("p", "alert-text", body);
    make("p", "alert-note", body);
    const button = make("button", "btn btn-sm btn-light", make("div", "alert-buttons", item), "Remove");
    button.type = "button";
  }

  function describeBrowser(id) {
    if (!dashtop.notifications.isOwn(id)) return "notifies another browser";
    return dashtop.notifications.isAllowed() ? "notifies this browser" : "for this browser, whose notifications are off";
  }

  function describeWatch({ id, channel, until, met }) {
    const target = channel === null ? (met ? "" : describeBrowser(id)) : met ? `notified ${channel}` : `notifies ${channel}`;
    return [met ? `At ${times.moment(met)}` : `Until ${times.moment(until)}`, target].filter(Boolean).join(" · ");
  }

  function paintList(name, entries, paintEntry, path) {
    const list = document.querySelector(`[data-${name}]`);
    if (!list || !entries || !dashtop.viewRequest.isShown(list.closest(".panel"))) return;
    list.parentElement.hidden = entries.length === 0;
    parts.fit(list, entries.length, buildEntry);
    entries.forEach((entry, position) => {
      const item = list.children[position];
      const [title, note] = paintEntry(entry);
      write(item.querySelector(".alert-text"), title);
      write(item.querySelector(".alert-note"), note);
      const button = item.querySelector("button");
      button.setAttribute("aria-label", `Remove: ${title}`);
      const end = path === "watches" ? () => remove(entry.id) : () => send("DELETE", `${path}/${entry.id}`);
      button.onclick = () => end().catch((error) => write(document.querySelector("[data-alerts-error]"), error.message));
    });
  }

  function nameService({ name, user, container }) {
    return `${name || "Unnamed process"}${user ? ` of ${user}` : ""}${container ? ` in ${container}` : ""}`;
  }

  painters.push((newest) => {
    snapshot = newest;
    paintHead();
    paintMarks();
    paintDialog();
    paintList("watches", snapshot.watches, (each) => [each.text, describeWatch(each)], "watches");
    paintList("services", snapshot.services, (each) => [nameService(each), `Since ${times.moment(each.since)}${each.by ? ` · by ${each.by}` : ""}`], "services");
  });
})();
