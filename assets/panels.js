// Lists whose length the machine decides: cores and mounts. Elements are made once and then only changed.
// (Dash loads these files in the order of their names: paint.js, this one, poll.js, view.js.)
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const { make, fit } = parts;
  const MOST_BARS = 32;

  // Few cores are bars, many are a heat map: both are read at a glance, and neither grows past a few lines.
  function paintCores(frame) {
    const strip = document.querySelector("[data-cores]");
    if (!strip) return;
    const cores = frame.cores || [];
    strip.hidden = cores.length === 0;
    strip.dataset.form = cores.length > MOST_BARS ? "heat" : "bars";
    fit(strip, cores.length, (parent) => make("i", "", make("span", "core", parent)));
    cores.forEach((percent, index) => {
      const cell = strip.children[index];
      cell.style.setProperty("--use", String(percent / 100));
      cell.title = `Core ${index}: ${percent} %`;
    });
    const busiest = cores.indexOf(Math.max(...cores));
    if (cores.length) {
      strip.setAttribute("aria-label", `Use of ${cores.length} cores; busiest is core ${busiest} at ${cores[busiest]} %`);
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
    make("span", "number whole mount-total", value).dataset.unit = "GiB";
    make("span", "mount-percent", value);
    make("span", "mount-silent", value).textContent = "not answering";
    const bar = make("div", "bar", item);
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "100");
  }

  function writeSize(element, gib) {
    const { value, symbol } = window.dashtop.units.shown(gib, "GiB");
    parts.write(element, value === null ? "N/A" : value.toFixed(1));
    if (element.dataset.unit) parts.mark(element, "unit", symbol);
  }

  function paintMounts(frame) {
    const list = document.querySelector("[data-mounts]");
    if (!list || !frame.mounts) return;
    fit(list, frame.mounts.length, buildMount);
    frame.mounts.forEach(([point, filesystem, used, total, percent, level], index) => {
      const item = list.children[index];
      const part = (name) => item.querySelector(name);
      parts.write(part(".mount-point"), point);
      part(".mount-point").title = point;
      parts.write(part(".filesystem"), filesystem);
      writeSize(part(".mount-used"), used);
      writeSize(part(".mount-total"), total);
      parts.write(part(".mount-percent"), percent === null ? "" : `${percent.toFixed(0)} %`);
      item.classList.toggle("silent", total === null);
      part(".bar").setAttribute("aria-label", `${point} used`);
      parts.fill(part(".bar"), percent, level);
    });
  }

  painters.push(paintCores, paintMounts);
})();
