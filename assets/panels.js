// The CPU cores and the mount points. Elements are built once and then updated.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts, units } = dashtop;
  const { make, fit } = parts;
  const MAX_BARS = 32;

  // The cores by number; those that are missing are offline, and those above that the kernel lists as offline.
  function listCores({ cores = [], core_ids: numbers, offline_cores: offline = [] }) {
    if (!numbers) return cores.map((percent, number) => ({ number, percent }));
    const percents = new Map(numbers.map((number, index) => [number, cores[index]]));
    return Array.from({ length: Math.max(-1, ...numbers, ...offline) + 1 }, (_, number) => ({ number, percent: percents.get(number) }));
  }

  // Few cores are bars, many are a heat map, which stays a few lines high. The page of the host has room for numbers.
  function paintCores(snapshot) {
    const found = listCores(snapshot);
    const online = found.filter(({ percent }) => percent !== undefined);
    for (const list of document.querySelectorAll("[data-cores]")) {
      if (!dashtop.viewRequest.isShown(list.closest(".panel"))) continue;
      const hasNumbers = list.dataset.cores === "numbers";
      const shown = hasNumbers ? found : online;
      list.hidden = shown.length === 0;
      list.dataset.form = hasNumbers ? "numbers" : shown.length > MAX_BARS ? "heat" : "bars";
      fit(list, shown.length, (parent) => make("i", "", make("span", "core", parent)));
      shown.forEach(({ number, percent }, index) => {
        const cell = list.children[index];
        const isOffline = percent === undefined;
        cell.style.setProperty("--use", String((percent || 0) / 100));
        cell.dataset.tip = `Core ${number}: ${isOffline ? "offline" : `${percent} %`}`;
        if (!hasNumbers) return;
        parts.mark(cell, "core", String(number));
        cell.classList.toggle("is-offline", isOffline);
      });
      if (online.length) list.setAttribute("aria-label", describeCores(found, online));
    }
  }

  function describeCores(found, online) {
    const busiest = online.reduce((one, other) => (other.percent > one.percent ? other : one));
    const offline = found.filter(({ percent }) => percent === undefined).map(({ number }) => number);
    const missing = offline.length ? `, offline: ${offline.join(", ")}` : "";
    return `CPU utilization of ${online.length} cores, highest: core ${busiest.number}, ${busiest.percent} %${missing}`;
  }

  function buildMount(list) {
    const item = make("li", "metric-row", list);
    const name = make("span", "label", item);
    make("span", "mount-point", name);
    make("span", "filesystem", name);
    const value = make("span", "value", item);
    make("span", "number mount-used", value);
    value.append(" / ");
    make("span", "number total mount-total", value).dataset.unit = "GiB";
    make("span", "mount-percent", value);
    make("span", "mount-error", value).textContent = "not responding";
    const bar = make("div", "bar", item);
    bar.setAttribute("role", "meter");
  }

  function writeSize(element, gib) {
    const { value, symbol } = units.convert(gib, "GiB");
    parts.write(element, value === null ? "N/A" : value.toFixed(1));
    if (element.dataset.unit) parts.mark(element, "unit", symbol);
  }

  function paintMount(item, mount) {
    const find = (name) => item.querySelector(name);
    parts.write(find(".mount-point"), mount.mount_point);
    parts.mark(find(".mount-point"), "tip", mount.mount_point);
    parts.write(find(".filesystem"), mount.filesystem);
    writeSize(find(".mount-used"), mount.used_gib);
    writeSize(find(".mount-total"), mount.total_gib);
    parts.write(find(".mount-percent"), mount.used_percent === null ? "" : `${mount.used_percent.toFixed(0)} %`);
    item.classList.toggle("not-responding", mount.total_gib === null);
    find(".bar").setAttribute("aria-label", `${mount.mount_point} used`);
    parts.fill(find(".bar"), mount.used_percent, mount.level);
  }

  function paintMounts(snapshot) {
    if (!snapshot.mounts) return;
    for (const list of document.querySelectorAll("[data-mounts]")) {
      if (!dashtop.viewRequest.isShown(list.closest(".panel"))) continue;
      fit(list, snapshot.mounts.length, buildMount);
      snapshot.mounts.forEach((mount, index) => paintMount(list.children[index], mount));
    }
  }

  painters.push(paintCores, paintMounts);
})();
