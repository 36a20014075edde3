// Where actions on processes are allowed (--allow-actions): the menu of a process, and the dialog that confirms an action
// and says what came of it. Names of processes are untrusted: everything is written as text.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts } = dashtop;
  const { make, write } = parts;
  const REQUEST_TIMEOUT_MS = 5000;
  const FOLLOW_INTERVAL_MS = 1000;
  const KILL_AFTER_MS = 10_000;
  const MARGIN_PX = 8;
  const ACTIONS = {
    INT: { name: "Interrupt", help: "Sends SIGINT, as Ctrl-C does: a notebook kernel stops its cell, most programs end." },
    TERM: { name: "Terminate", help: "Sends SIGTERM: asks the process to end. It may save its work first." },
    KILL: { name: "Kill", help: "Sends SIGKILL: the process ends at once and saves nothing. Possible 10 s after Terminate." },
    STOP: { name: "Pause", help: "Sends SIGSTOP: the process stops computing and keeps its GPU memory. Its connections may time out." },
    CONT: { name: "Resume", help: "Sends SIGCONT: the process goes on." },
  };
  const AFTER_10_S = {
    INT: "It still runs after 10 s: a program may ignore Interrupt. Terminate asks it to end.",
    TERM: "It has not ended after 10 s: Kill is possible now. A paused process ends when it is resumed.",
    KILL: "It has not ended after 10 s: it waits for the driver or a disk, and ends when that answers.",
  };
  const RESULTS = { STOP: "It is paused, and keeps its GPU memory until it is resumed or ended.", CONT: "It goes on." };

  let snapshot = null;
  let menu = null;
  let opener = null; // the button of the menu
  let dialog = null;
  let subject = null; // {process, signal}
  let token = ""; // of this tab; nowhere else
  let timer = null;
  let enabled = null;

  // --- what is allowed ----------------------------------------------------------------------------------------

  const app = () => document.querySelector(".app").dataset;
  // A page that frames this one could lead clicks to its buttons.
  const isFramed = () => window.top !== window.self || Boolean(document.documentElement.dataset.embed);
  // Asked for each row of a table, and the same until the page is loaded again.
  const isEnabled = () => (enabled ??= Boolean(app().actions) && !isFramed());

  // Why nothing can be done to a process; "" if something can.
  function describeObstacle(process) {
    if (snapshot.is_past || snapshot.isStored) return "No actions: this page shows the past.";
    if (process.foreign || process.started_ms === null) return "No actions: it cannot be identified from here.";
    if (process.type === "G") return "No actions: it only draws.";
    if (app().actions === "own" && process.user !== app().actionsUser) return `No actions: only processes of ${app().actionsUser} are allowed.`;
    return "";
  }

  const isSomebodyElses = (process) => process.user !== (dashtop.processTools.userName() || app().actionsUser);
  const needsPid = () => subject.signal === "KILL" || isSomebodyElses(subject.process);

  // --- menu ---------------------------------------------------------------------------------------------------

  function buildMenu() {
    menu = make("div", "action-menu", document.querySelector("main"));
    menu.popover = "auto"; // Escape and a click elsewhere close it
    menu.setAttribute("role", "menu");
    addItem("Notify me when it ends …", "");
    make("div", "action-separator", menu).setAttribute("role", "separator");
    for (const [signal, { name }] of Object.entries(ACTIONS)) addItem(`${name} …`, signal);
    make("p", "action-obstacle", menu);
    menu.addEventListener("keydown", moveFocus);
    menu.addEventListener("toggle", (event) => {
      if (event.newState === "open") return;
      opener.setAttribute("aria-expanded", "false");
    });
    window.addEventListener("scroll", () => menu.matches(":popover-open") && menu.hidePopover(), { passive: true, capture: true });
  }

  function addItem(text, signal) {
    const item = make("button", "action-item", menu, text);
    Object.assign(item, { type: "button", tabIndex: -1 });
    item.setAttribute("role", "menuitem");
    item.dataset.signal = signal;
    item.addEventListener("click", () => choose(item));
  }

  const listItems = () => [...menu.querySelectorAll("[role=menuitem]:not([hidden])")];

  function moveFocus(event) {
    const items = listItems();
    const position = items.indexOf(document.activeElement);
    const target = { ArrowDown: position + 1, ArrowUp: position - 1, Home: 0, End: -1 }[event.key];
    if (event.key === "Tab") menu.hidePopover();
    if (target === undefined) return;
    event.preventDefault();
    items.at(target % items.length).focus();
  }

  function openMenu(button) {
    const process = dashtop.processTable.find(button.closest("[data-source]").dataset.source, Number(button.dataset.watchPid));
    if (!process) return;
    if (!menu) buildMenu();
    opener = button;
    subject = { process, signal: "" };
    const obstacle = describeObstacle(process);
    menu.setAttribute("aria-label", `Actions for ${nameOf(process)}`);
    for (const item of menu.querySelectorAll("[role=menuitem]")) item.hidden = item.dataset.signal === (process.paused ? "STOP" : "CONT");
    for (const item of listItems()) item.setAttribute("aria-disabled", String(Boolean(item.dataset.signal && obstacle)));
    write(menu.lastElementChild, obstacle);
    menu.showPopover();
    button.setAttribute("aria-expanded", "true");
    const box = button.getBoundingClientRect();
    const left = Math.min(box.left, window.innerWidth - menu.offsetWidth - MARGIN_PX);
    const below = box.bottom + MARGIN_PX + menu.offsetHeight < window.innerHeight;
    menu.style.left = `${Math.round(Math.max(MARGIN_PX, left))}px`;
    menu.style.top = `${Math.round(below ? box.bottom + 4 : Math.max(MARGIN_PX, box.top - menu.offsetHeight - 4))}px`;
    listItems()[0].focus();
  }

  function choose(item) {
    if (item.getAttribute("aria-disabled") === "true") return;
    const { signal } = item.dataset;
    opener.focus(); // where the dialog returns it
    menu.hidePopover();
    if (signal) openDialog(signal);
    else dashtop.watches.openProcess(subject.process.pid);
  }

  // --- dialog -------------------------------------------------------------------------------------------------

  const nameOf = ({ name, pid }) => `${name || "process"}, PID ${pid}`;
  const find = (selector) => dialog.querySelector(selector);

  function buildDialog() {
    dialog = make("dialog", "table-dialog action-dialog", document.body);
    dialog.setAttribute("aria-labelledby", "action-title");
    dialog.setAttribute("aria-describedby", "action-help");
    make("h2", "", dialog).id = "action-title";
    make("dl", "action-facts", dialog);
    make("p", "", dialog).id = "action-help";
    const form = make("form", "action-form", dialog);
    addField(form, "pid", { inputMode: "numeric", autocomplete: "off", maxLength: 7 });
    addField(form, "token", { type: "password", autocomplete: "off", maxLength: 200 });
    make("p", "action-result", form).setAttribute("role", "status");
    make("p", "alert-error", form).setAttribute("role", "alert");
    const buttons = make("div", "action-buttons", form);
    const cancel = make("button", "btn", buttons, "Cancel");
    Object.assign(cancel, { type: "button", autofocus: true });
    cancel.dataset.role = "cancel";
    cancel.addEventListener("click", () => dialog.close());
    Object.assign(make("button", "btn action-send", buttons), { type: "submit" });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    dialog.addEventListener("close", () => {
      clearTimeout(timer);
      find("[data-field=token] input").value = "";
    });
  }

  function addField(form, name, options) {
    const label = make("label", "action-field", form);
    label.dataset.field = name;
    make("span", "", label);
    Object.assign(make("input", "filter", label), options);
  }

  function addFact(name, text) {
    const list = find(".action-facts");
    make("dt", "", list, name);
    make("dd", "", list, text);
  }

  function openDialog(signal) {
    if (!dialog) buildDialog();
    subject = { ...subject, signal };
    const { process } = subject;
    find(".action-facts").replaceChildren();
    const { memory, age } = dashtop.processTable.describe(process);
    addFact("Name", process.name || "unknown");
    addFact("User", process.user || "unknown");
    addFact("PID", String(process.pid));
    addFact("GPU memory", memory);
    addFact("Running for", age);
    ask(signal);
    dialog.showModal();
    find("[data-role=cancel]").focus();
  }

  // Before anything is sent.
  function ask(signal) {
    clearTimeout(timer);
    subject = { ...subject, signal };
    write(find("#action-help"), ACTIONS[signal].help);
    write(find("[data-field=pid] span"), `Type the PID (${subject.process.pid}) to confirm`);
    write(find("[data-field=token] span"), "Action token (asked once in this tab)");
    find("[data-field=pid] input").value = "";
    showResult("", { canSend: true });
  }

  // `next`: the signal that the button sends then.
  function showResult(text, { canSend = false, error = "", next = subject.signal } = {}) {
    const { name, user } = subject.process;
    write(find("h2"), `${ACTIONS[subject.signal].name} ${name || "process"}${user ? ` of ${user}` : ""}${canSend ? "?" : ""}`);
    write(find(".action-result"), text);
    write(find(".alert-error"), error);
    find("[data-field=pid]").hidden = !canSend || !needsPid();
    find("[data-field=token]").hidden = !canSend || Boolean(token);
    const button = find(".action-send");
    button.hidden = !canSend && next === subject.signal;
    button.disabled = false;
    button.dataset.next = next;
    write(button, next === subject.signal ? ACTIONS[next].name : `${ACTIONS[next].name} …`);
    write(find("[data-role=cancel]"), canSend ? "Cancel" : "Close");
  }

  async function send() {
    const { next } = find(".action-send").dataset;
    if (next !== subject.signal) {
      ask(next);
      find("[data-role=cancel]").focus();
      return;
    }
    const pid = find("[data-field=pid] input");
    if (needsPid() && pid.value.trim() !== String(subject.process.pid)) {
      write(find(".alert-error"), `Type the PID of the process: ${subject.process.pid}.`);
      pid.focus();
      return;
    }
    const field = find("[data-field=token] input");
    const given = token || field.value.trim();
    if (!given) {
      write(find(".alert-error"), "Enter the action token.");
      field.focus();
      return;
    }
    const sentFor = subject;
    find(".action-send").disabled = true;
    try {
      await post(given);
      token = given;
      if (subject === sentFor) follow(Date.now());
    } catch (error) {
      const isWrong = error.status === 401;
      if (error.status) token = isWrong || error.status === 429 ? "" : given; // it is checked first
      if (subject !== sentFor) return;
      showResult("", { canSend: true, error: error.message });
      if (isWrong) field.focus();
    }
  }

  async function post(given) {
    const { process, signal } = subject;
    const { status, body } = await request(`processes/${process.pid}/signal`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Dashtop-Action-Token": given },
      body: JSON.stringify({ started_ms: process.started_ms, gpu_uuid: process.gpu_uuid, signal }),
    });
    if (status !== 202) throw Object.assign(new Error(body.detail || "The server refused it."), { status });
    dashtop.polling.requestNow();
  }

  async function request(path, options) {
    let answer;
    try {
      answer = await fetch(dashtop.viewRequest.url(`api/v1/system/${path}`), { ...options, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    } catch {
      throw new Error("The server does not answer. Try again.");
    }
    return { status: answer.status, body: await answer.json() };
  }

  // Until the process has ended or the dialog is closed.
  async function follow(sentAt) {
    const { process, signal } = subject;
    const followed = subject;
    if (RESULTS[signal]) {
      showResult(RESULTS[signal]);
      return;
    }
    const isLate = Date.now() - sentAt > KILL_AFTER_MS;
    showResult(isLate ? AFTER_10_S[signal] : `${ACTIONS[signal].name} was sent. Waiting for the end …`, isLate && signal === "TERM" ? { next: "KILL" } : {});
    const hasEnded = await findEnd(process);
    if (subject !== followed || !dialog.open) return;
    if (hasEnded) showResult("It has ended, or holds no GPU memory any more.");
    else timer = setTimeout(() => follow(sentAt), FOLLOW_INTERVAL_MS);
  }

  // Whether no GPU lists the process any more. What is not known is not an end.
  async function findEnd({ pid, started_ms: started }) {
    try {
      const { status, body } = await request("processes", {});
      return status === 200 && !body.some((each) => each.pid === pid && each.started === started);
    } catch {
      return false;
    }
  }

  dashtop.processActions = { isEnabled, openMenu };

  painters.push((newest) => {
    snapshot = newest;
  });
})();
