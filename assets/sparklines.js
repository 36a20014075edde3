// Sparklines: how one is drawn, and those of the chosen GPU's last minutes. The server sends the minutes once
// (app/dashtop/ui/panels/gauges.py); after that each snapshot adds its value.
(function () {
  "use strict";

  const dashtop = window.dashtop;
  const { painters, parts } = dashtop;
  const WIDTH = 300;
  const HEIGHT = 40;
  const SVG = "http://www.w3.org/2000/svg";
  const MAX_GAP_BUCKETS = 5;

  function svgOf(element) {
    if (element.firstElementChild) return element.firstElementChild;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    for (const name of ["area", "line"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    element.append(svg);
    return svg;
  }

  // Draws [position, value] pairs, positions from 0 to 1, into an element. Buckets further apart than `maxStep` are a
  // gap; a lone point becomes a short dash.
  function draw(element, points, top, maxStep) {
    const segments = [];
    let last = -Infinity;
    for (const [position, value] of points) {
      if (position - last > maxStep) segments.push([]);
      const y = HEIGHT - 1 - Math.min(value / top, 1) * (HEIGHT - 2);
      segments.at(-1).push([(position * WIDTH).toFixed(1), y.toFixed(1)]);
      last = position;
    }
    const [area, line] = svgOf(element).children;
    const path = (segment) => `M${segment.map((point) => point.join(" ")).join("L")}${segment.length > 1 ? "" : "h-2"}`;
    line.setAttribute("d", segments.map(path).join(""));
    area.setAttribute("d", segments.map((segment) => `${path(segment)}V${HEIGHT}H${segment[0][0]}Z`).join(""));
  }

  // --- the chosen GPU -----------------------------------------------------------------------------------------

  // `points`: by metric, the highest value of each bucket by the bucket's number.
  // `loads`: how many times the points came from the server.
  const history = { source: null, gpu: null, newestTime: 0, points: {}, loads: 0 };

  function start(source, gpu) {
    Object.assign(history, { source, gpu, newestTime: 0, points: {}, loads: history.loads + 1 });
    for (const [metric, values] of Object.entries(source.maximum)) {
      const known = values.map((value, index) => [source.start_ms / source.step_ms + index, value]);
      history.points[metric] = new Map(known.filter(([, value]) => value !== null));
    }
  }

  function stop() {
    Object.assign(history, { source: null, gpu: null, points: {} });
    dashtop.storeDelta.forget("sparklines");
  }

  function addValues({ time, values }) {
    const { step_ms: step, span_ms: span } = history.source;
    const bucket = Math.floor(time / step);
    // After a pause (a hidden tab, a server that was down) the server is asked for what is missing.
    if (history.newestTime && time - history.newestTime > MAX_GAP_BUCKETS * step) dashtop.storeDelta.forget("sparklines");
    history.newestTime = time;
    const oldest = bucket - span / step;
    for (const [metric, points] of Object.entries(history.points)) {
      const value = values[metric];
      if (value !== null && value !== undefined) points.set(bucket, Math.max(value, points.get(bucket) ?? value));
      for (const number of points.keys()) {
        if (number > oldest) break;
        points.delete(number);
      }
    }
    return bucket;
  }

  function paintSparkline(element, bucket, snapshot) {
    const { step_ms: step, span_ms: span } = history.source;
    const points = history.points[element.dataset.spark] || new Map();
    const drawn = `${history.loads} ${bucket} ${points.get(bucket)} ${dashtop.settings.get("temperature")}`;
    if (element.dataset.drawn === drawn) return;
    element.dataset.drawn = drawn;
    const highest = Math.max(0, ...points.values());
    const top = Math.max(snapshot.values[element.dataset.of] || 100, highest);
    const position = (number) => 1 - ((bucket - number) * step) / span;
    draw(element, [...points].map(([number, value]) => [position(number), value]), top, (2.5 * step) / span);
    for (const peak of document.querySelectorAll(`[data-peak="${element.dataset.spark}"]`)) {
      const { value, symbol } = dashtop.units.convert(highest, peak.dataset.in);
      parts.write(peak, points.size ? value.toFixed(Number(peak.dataset.digits)) : "N/A");
      parts.mark(peak, "unit", symbol);
      peak.classList.toggle("missing", points.size === 0);
    }
  }

  function paintSparklines(snapshot) {
    if (snapshot.sparklines && snapshot.sparklines !== history.source) start(snapshot.sparklines, snapshot.gpu);
    // The GPU is gone, or another was chosen in the view of all GPUs, which has no sparklines.
    if (history.gpu !== snapshot.gpu) stop();
    if (!history.source) return;
    const bucket = addValues(snapshot);
    for (const element of document.querySelectorAll("[data-spark]")) paintSparkline(element, bucket, snapshot);
  }

  painters.push(paintSparklines);
  dashtop.sparklines = { draw };
})();
