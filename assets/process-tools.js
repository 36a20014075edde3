// Above the tables of processes: how they are grouped, and which processes they show. The choices are in the address.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { parts, settings } = dashtop;
  const { make } = parts;
  const GROUPINGS = { user: "User", job: "Job", gpu: "GPU" };
  const FILTERS = { mine: ["Mine", "Processes of your user"], idle: ["Idle", "GPU memory held for 2 minutes or longer without use of the GPU"] };

  const isChosen = (filter) => settings.list("process_only").includes(filter);

  // --- the user -----------------------------------------------------------------------------------------------

  // A proxy may sign people in with an address; the user of processes is its first part.
  function viewerName() {
    const viewer = document.querySelector(".app").dataset.viewer || "";
    return viewer.split("\\").at(-1).split("@")[0];
  }

  const userName = () => settings.get("me") || viewerName();
  const isNameMissing = () => isChosen("mine") && !userName();

  // --- building -----------------------------------------------------------------------------------------------

  function addGroupings(tools, prefix) {
    make("span", "tools-label", tools, "Group by").setAttribute("aria-hidden", "true");
    const group = make("div", "segments", tools);
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", "Group by");
    for (const [value, label] of Object.entries(GROUPINGS)) {
      const item = make("div", "", group);
      const input = make("input", "btn-check", item);
      Object.assign(input, { type: "radio", name: `${prefix}-group`, value, id: `${prefix}-group-${value}` });
      input.addEventListener("change", () => settings.set({ process_group: value }));
      make("label", "segment", item, label).htmlFor = input.id;
    }
  }

  function toggle(filter) {
    const others = settings.list("process_only").filter((each) => each !== filter);
    settings.set({ process_only: (isChosen(filter) ? others : [...others, filter]).join() });
  }

  function addFilters(tools) {
    for (const [filter, [label, help]] of Object.entries(FILTERS)) {
      const button = make("button", "btn filter-button", tools, label);
      button.type = "button";
      Object.assign(button.dataset, { only: filter, tip: help });
      button.addEventListener("click", () => toggle(filter));
    }
  }

  function addNameForm(tools, prefix) {
    const form = make("form", "name-form", tools);
    const label = make("label", "visually-hidden", form, "Your user name");
    const input = make("input", "filter", form);
    Object.assign(input, { type: "text", id: `${prefix}-me`, placeholder: "Your user name", autocomplete: "username", maxLength: 64, required: true });
    label.htmlFor = input.id;
    make("button", "btn", form, "Use").type = "submit";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      settings.set({ me: input.value.trim() });
    });
    const change = make("button", "name-button", tools);
    change.type = "button";
    change.dataset.tip = "Use another name";
    change.addEventListener("click", () => {
      input.value = userName();
      tools.dataset.names = "true";
      input.focus();
    });
  }

  function addSearch(tools, prefix) {
    const label = make("label", "visually-hidden", tools, "Filter processes");
    const input = make("input", "filter process-search", tools);
    Object.assign(input, { type: "search", id: `${prefix}-filter`, placeholder: "Filter", maxLength: 100 });
    label.htmlFor = input.id;
    input.addEventListener("input", () => settings.set({ process_search: input.value.trim() }));
  }

  function build(tools) {
    const prefix = tools.dataset.processTools;
    if (tools.dataset.groups) addGroupings(tools, prefix);
    addFilters(tools);
    addNameForm(tools, prefix);
    addSearch(tools, prefix);
  }

  // --- painting -----------------------------------------------------------------------------------------------

  function paintTools(tools) {
    if (!tools.firstChild) build(tools);
    for (const input of tools.querySelectorAll("[type='radio']")) input.checked = input.value === settings.get("process_group");
    for (const button of tools.querySelectorAll("[data-only]")) button.setAttribute("aria-pressed", String(isChosen(button.dataset.only)));
    const search = tools.querySelector(".process-search");
    if (search !== document.activeElement) search.value = settings.get("process_search");
    const form = tools.querySelector(".name-form");
    form.hidden = !isNameMissing() && tools.dataset.names !== "true";
    const change = tools.querySelector(".name-button");
    change.hidden = !isChosen("mine") || !form.hidden;
    parts.write(change, userName());
  }

  settings.onChange((names) => {
    if (!names.includes("me") && !names.includes("process_only")) return;
    for (const tools of document.querySelectorAll("[data-process-tools]")) delete tools.dataset.names;
  });

  // --- filtering ----------------------------------------------------------------------------------------------

  // Returns a predicate of processes. `readTexts` returns the texts of a process that the search looks at.
  function matcher(readTexts, canBeIdle) {
    const wanted = settings.get("process_search").toLowerCase();
    const user = isChosen("mine") ? userName().toLowerCase() : null;
    const idle = canBeIdle && isChosen("idle");
    return (process) => {
      if (user !== null && (!user || (process.user || "").toLowerCase() !== user)) return false;
      if (idle && !process.idle_minutes) return false;
      return !wanted || readTexts(process).some((text) => text.toLowerCase().includes(wanted));
    };
  }

  dashtop.processTools = {
    isFiltered: () => Boolean(settings.get("process_search") || settings.get("process_only")),
    isNameMissing,
    userName,
    matcher,
    paint: () => document.querySelectorAll("[data-process-tools]").forEach(paintTools),
  };
})();
