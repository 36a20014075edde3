// The CPU cores and the mount points. Elements are built once and then updated.
(function () {
  "use strict";

  const { painters, parts, units } = window.dashtop;
  const { make, fit } = parts;
  const MAX_BARS = 32;

  // Few cores are bars, many are a heat map, which stays a few lines high.
  function paintCores(snapshot) {
    const list = document.querySelector("[data-cores]");
    if (!list) return;
    const cores = snapshot.cores || [];
    const numberOf = (index) => (snapshot.core_ids ? snapshot.core_ids[index] : index);
    list.hidden = cores.length === 0;
    list.dataset.form = cores.length > MAX_BARS ? "heat" : "bars";
    fit(list, cores.length, (parent) => make("i", "", make("span", "core", parent)));
    cores.forEach((percent, index) => {
      const cell = list.children[index];
      cell.style.setProperty("--use", String(percent / 100));
      cell.title = `Core ${numberOf(index)}: ${percent} %`;
    });
    const busiest = cores.indexOf(Math.max(...cores));
    if (cores.length) {
      const highest = `core ${numberOf(busiest)}, ${cores[busiest]} %`;
      list.setAttribute("aria-label", `CPU utilization of ${cores.length} cores, highest: ${highest}`);
    }
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
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "100");
  }

  function writeSize(element, gib) {
    const { value, symbol } = units.convert(gib, "GiB");
    parts.write(element, value === null ? "N/A" : value.toFixed(1));
    if (element.dataset.unit) parts.mark(element, "unit", symbol);
  }

  function paintMount(item, mount) {
    const find = (name) => item.querySelector(name);
    parts.write(find(".mount-point"), mount.mount_point);
    find(".mount-point").title = mount.mount_point;
    parts.write(find(".filesystem"), mount.filesystem);
    writeSize(find(".mount-used"), mount.used_gib);
    writeSize(find(".mount-total"), mount.total_gib);
    parts.write(find(".mount-percent"), mount.used_percent === null ? "" : `${mount.used_percent.toFixed(0)} %`);
    item.classList.toggle("not-responding", mount.total_gib === null);
    find(".bar").setAttribute("aria-label", `${mount.mount_point} used`);
    parts.fill(find(".bar"), mount.used_percent, mount.level);
  }

  function paintMounts(snapshot) {
    const list = document.querySelector("[data-mounts]");
    if (!list || !snapshot.mounts) return;
    fit(list, snapshot.mounts.length, buildMount);
    snapshot.mounts.forEach((mount, index) => paintMount(list.children[index], mount));
  }

  painters.push(paintCores, paintMounts);
})();
