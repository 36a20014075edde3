// Sparklines of the last minutes: filled once from the server's history, and carried on with every frame.
(function () {
  "use strict";

  const { painters, parts } = window.dashtop;
  const WIDTH = 300;
  const HEIGHT = 40;
  const SVG = "http://www.w3.org/2000/svg";

  // `points`: by metric, the highest reading of each bucket by the bucket's number.
  const trail = { gpu: "", step: 0, span: 0, newest: 0, points: {} };

  function begin({ gpu, start, step, span, highest }) {
    Object.assign(trail, { gpu, step, span, newest: 0, points: {} });
    for (const [metric, values] of Object.entries(highest)) {
      trail.points[metric] = new Map();
      values.forEach((value, index) => {
        if (value !== null) trail.points[metric].set(start / step + index, value);
      });
    }
  }

  function carryOn(frame) {
    const bucket = Math.floor(frame.time / trail.step);
    // After a pause (a sleeping tab, a server that was gone) the server is asked for what was missed.
    if (trail.newest && frame.time - trail.newest > 5 * trail.step) trail.gpu = "";
    trail.newest = frame.time;
    const oldest = bucket - trail.span / trail.step;
    for (const [metric, points] of Object.entries(trail.points)) {
      const value = frame.values[metric];
      if (value !== null && value !== undefined) points.set(bucket, Math.max(value, points.get(bucket) ?? value));
      for (const old of points.keys()) {
        if (old > oldest) break;
        points.delete(old);
      }
    }
    return bucket;
  }

  // A line for each stretch without a gap; a bucket that is still to come is no gap.
  function lines(points, newest, top) {
    const x = (bucket) => (WIDTH - ((newest - bucket) * trail.step * WIDTH) / trail.span).toFixed(1);
    const y = (value) => (HEIGHT - 1 - (Math.min(value / top, 1) * (HEIGHT - 2))).toFixed(1);
    const found = [];
    let last = -Infinity;
    for (const [bucket, value] of points) {
      if (bucket - last > 2) found.push([]);
      found.at(-1).push([x(bucket), y(value)]);
      last = bucket;
    }
    return found;
  }

  function picture(spark) {
    if (spark.firstElementChild) return spark.firstElementChild;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const name of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    spark.append(svg);
    return svg;
  }

  function draw(spark, bucket, frame) {
    const points = trail.points[spark.dataset.spark] || new Map();
    const highest = Math.max(0, ...points.values());
    const version = `${trail.gpu} ${bucket} ${points.get(bucket)} ${window.dashtop.state.get("temperature")}`;
    if (spark.dataset.version === version) return;
    spark.dataset.version = version;
    const top = Math.max(frame.values[spark.dataset.of] || 100, highest);
    const [area, line] = picture(spark).children;
    const found = lines(points, bucket, top);
    // A reading alone is seen, too.
    const path = (stretch) => `M${stretch.map((point) => point.join(" ")).join("L")}${stretch.length > 1 ? "" : "h-2"}`;
    line.setAttribute("d", found.map(path).join(""));
    area.setAttribute("d", found.map((s) => `${path(s)}V${HEIGHT}H${s[0][0]}Z`).join(""));
    for (const peak of document.querySelectorAll(`[data-peak="${spark.dataset.spark}"]`)) {
      const { value, symbol } = window.dashtop.units.shown(highest, peak.dataset.in);
      parts.write(peak, points.size ? value.toFixed(Number(peak.dataset.digits)) : "N/A");
      parts.mark(peak, "unit", symbol);
      peak.classList.toggle("missing", points.size === 0);
    }
  }

  function paintSparks(frame) {
    if (frame.gpu === null) {
      Object.assign(trail, { gpu: "", points: {} });
      return;
    }
    if (frame.trail) begin(frame.trail);
    if (!trail.step) return;
    const bucket = carryOn(frame);
    for (const spark of document.querySelectorAll("[data-spark]")) draw(spark, bucket, frame);
  }

  // Said in full where there is room for it: why a card has no value.
  function paintWhy(frame) {
    for (const element of document.querySelectorAll("[data-why]")) parts.write(element, frame.missing[element.dataset.why] || "");
  }

  painters.push(paintSparks, paintWhy);
  window.dashtop.trail = () => trail.gpu;
})();
