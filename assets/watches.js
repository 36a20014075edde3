// "Tell me when this GPU is free", "Tell me when this process ends", and "This is a service": buttons, and the dialog
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
    make("p", "alert-error", form).setAttribute("role", "alert");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run(watch);
    });
    const service = make("div", "watch-service", dialog);
    make("p", "", service, SERVICE_HELP);
    const toggle = make("button", "btn", service);
    toggle.type = "button";
    toggle.addEventListener("click", () => run(toggleService));
  }

  const find = (selector) => dialog.querySelector(selector);

  async function run(action) {
    for (const button of dialog.querySelectorAll("button")) button.disabled = true;
    write(find(".alert-error"), "");
    try {
      await action();
      dialog.close();
    } catch (error) {
      write(find(".alert-error"), error.message);
    } finally {
      for (const button of dialog.querySelectorAll("button")) button.disabled = false;
    }
  }

  async function watch() {
    const target = find("select").value;
    if (target === THIS_BROWSER) await dashtop.notifications.allow(); // first: browsers ask after a click only
    const { kind, gpu, process } = subject;
    const about = kind === "gpu_free" ? { gpu_uuid: gpu.uuid } : { pid: process.pid, started: process.started_ms };
    const { id } = await send("POST", "watches", { kind, ...about, channel: target === THIS_BROWSER ? null : target });
    if (target === THIS_BROWSER) dashtop.notifications.expect(id);
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
    write(find("form [type=submit]"), kind === "gpu_free" ? "Tell me when it is free" : "Tell me when it ends");
    write(find(".alert-error"), "");
    find(".watch-service").hidden = kind === "gpu_free";
    if (process) write(find(".watch-service button"), process.service ? "No longer a service" : "This is a service");
    fillTargets();
    dialog.showModal();
  }

  const deviceOf = (wanted) => snapshot.devices.find(({ index }) => index === wanted);
  const openGpu = (index) => open({ kind: "gpu_free", gpu: deviceOf(index) });

  function openProcess(pid) {
    const process = [...(snapshot.processes || []), ...(snapshot.all_processes || [])].find((each) => each.pid === pid);
    if (process) open({ kind: "process_end", process });
  }

  document.addEventListener("click", (event) => {
    if (!snapshot) return;
    const button = event.target.closest("[data-watch-gpu], [data-watch-pid]");
    if (!button) return;
    if (button.dataset.watchPid) openProcess(Number(button.dataset.watchPid));
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
  }

  function buildEntry(list) {
    const item = make("li", "alert-item", list);
    const body = make("div", "alert-body", item);
    make("p", "alert-text", body);
    make("p", "alert-note", body);
    const button = make("button", "btn btn-sm btn-light", make("div", "alert-buttons", item), "Remove");
    button.type = "button";
  }

  function describeWatch({ channel, until, met }) {
    const target = channel === null ? (met ? "" : "tells a browser") : met ? `told ${channel}` : `tells ${channel}`;
    return [met ? `At ${times.moment(met)}` : `Until ${times.moment(until)}`, target].filter(Boolean).join(" · ");
  }

  function paintList(name, entries, paintEntry, path) {
    const list = document.querySelector(`[data-${name}]`);
    if (!list || !entries || !list.closest(".panel").offsetParent) return;
    list.parentElement.hidden = entries.length === 0;
    parts.fit(list, entries.length, buildEntry);
    entries.forEach((entry, position) => {
      const item = list.children[position];
      const [title, note] = paintEntry(entry);
      write(item.querySelector(".alert-text"), title);
      write(item.querySelector(".alert-note"), note);
      const button = item.querySelector("button");
      button.setAttribute("aria-label", `Remove: ${title}`);
      button.onclick = () => send("DELETE", `${path}/${entry.id}`).catch((error) => write(document.querySelector("[data-alerts-error]"), error.message));
    });
  }

  function nameService({ name, user, container }) {
    return `${name || "Unnamed process"}${user ? ` of ${user}` : ""}${container ? ` in ${container}` : ""}`;
  }

  painters.push((newest) => {
    snapshot = newest;
    paintHead();
    paintList("watches", snapshot.watches, (each) => [each.text, describeWatch(each)], "watches");
    paintList("services", snapshot.services, (each) => [nameService(each), `Since ${times.moment(each.since)}${each.by ? ` · by ${each.by}` : ""}`], "services");
  });
})();
