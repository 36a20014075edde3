// Units: the server sends °C, GiB, MiB, Wh and MB/s; this script converts them to the units that the page shows.
(function () {
  "use strict";

  const dashtop = window.dashtop;

  // The other unit of each setting (assets/settings-store.js). Δ°C is a difference of temperatures: no offset of 32.
  const ALTERNATIVES = {
    temperature: { "°C": ["°F", (value) => value * 1.8 + 32], "Δ°C": ["°F", (value) => value * 1.8] },
    memory: { GiB: ["GB", (value) => value * 1.073741824], MiB: ["MB", (value) => value * 1.048576] },
  };
  const HEADROOM = 1.17;
  const DEFAULTS = { temperature: "C", memory: "GiB" };
  // Large values get a larger unit: [from, unit], a thousand times as large.
  const LARGER = { Wh: [10000, "kWh"], "MB/s": [1000, "GB/s"], "Mbit/s": [1000, "Gbit/s"] };

  // Returns [unit, function] if the user has chosen another unit than the server sends.
  function chosenUnit(unit) {
    const setting = Object.keys(ALTERNATIVES).find((name) => unit in ALTERNATIVES[name]);
    return setting && dashtop.settings.get(setting) !== DEFAULTS[setting] ? ALTERNATIVES[setting][unit] : null;
  }

  // Returns the value and unit to show for a value in the unit of the server.
  function convert(value, unit) {
    const [threshold, larger] = LARGER[unit] || [Infinity];
    if (value >= threshold) return { value: value / 1000, symbol: larger };
    const chosen = chosenUnit(unit);
    if (!chosen) return { value, symbol: unit.replace("Δ", "") };
    return { value: value === null ? null : chosen[1](value), symbol: chosen[0] };
  }

  // Returns a value with its unit: "1.5 GiB".
  function format(value, unit, digits = 1) {
    const converted = convert(value, unit);
    return `${converted.value.toFixed(digits)} ${converted.symbol}`;
  }

  // Returns a size in MiB, as MiB or GiB.
  function formatSize(mib) {
    const small = convert(mib, "MiB");
    return small.value >= (small.symbol === "MB" ? 1000 : 1024) ? format(mib / 1024, "GiB") : format(mib, "MiB", 0);
  }

  // --- figures ------------------------------------------------------------------------------------------------

  function decodeArray(array) {
    if (Array.isArray(array)) return array;
    const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
    return Array.from(new Float32Array(bytes.buffer));
  }

  // Decodes a two-dimensional array; its shape is "rows,columns".
  function decodeRows(array) {
    if (Array.isArray(array)) return array;
    const columns = Number(array.shape.split(",")[1]);
    const flat = decodeArray(array);
    return Array.from({ length: flat.length / columns }, (_, row) => flat.slice(row * columns, (row + 1) * columns));
  }

  // Converts the number and unit in "warning 83 °C", and the unit in "%{y:.1f} °C".
  function convertText(text, unit, symbol, value) {
    const number = new RegExp(`\\d+(?:\\.(\\d+))? ${unit}`);
    return text
      .replace(number, (_, decimals) => `${value.toFixed((decimals || "").length)} ${symbol}`)
      .replace(` ${unit}`, ` ${symbol}`);
  }

  // Returns the smallest round tick distance (1, 2, 3, 4, 5, 6, 8, times a power of ten) of at least `minimum`.
  function roundTickDistance(minimum) {
    const power = 10 ** Math.floor(Math.log10(minimum));
    return [1, 2, 3, 4, 5, 6, 8, 10].find((each) => each * power >= minimum) * power;
  }

  function formatTick(value) {
    return value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, "");
  }

  function convertAxis(axis, [, toUnit]) {
    const converted = { ...axis };
    if (axis.range) converted.range = axis.range.map(toUnit);
    if (axis.tickvals) {
      // Ticks end at the capacity, which is below the end of the axis (app/dashtop/ui/charts/base_figure.py).
      const capacity = converted.range[1] / HEADROOM;
      const distance = roundTickDistance(capacity / 4);
      converted.tickvals = Array.from({ length: Math.floor((1.005 * capacity) / distance) + 1 }, (_, tick) => tick * distance);
      converted.ticktext = converted.tickvals.map(formatTick);
    }
    if (axis.dtick) converted.dtick = roundTickDistance(toUnit(axis.dtick) - toUnit(0));
    return converted;
  }

  function convertTrace(trace, unit, symbol, toUnit) {
    const converted = { ...trace, y: decodeArray(trace.y).map(toUnit) };
    if (trace.hovertemplate) converted.hovertemplate = convertText(trace.hovertemplate, unit, symbol);
    if (trace.customdata) converted.customdata = decodeRows(trace.customdata).map((row) => row.map(toUnit));
    return converted;
  }

  // Converts a figure to the chosen units. The units of its axes are in layout.meta.
  function convertFigure(figure) {
    const axes = Object.entries(figure.layout.meta || {}).filter(([, unit]) => chosenUnit(unit));
    if (axes.length === 0) return figure;
    const layout = { ...figure.layout };
    let { data } = figure;
    for (const [axis, unit] of axes) {
      const [symbol, toChosen] = chosenUnit(unit);
      const toUnit = (value) => (Number.isFinite(value) ? toChosen(value) : null);
      const name = `yaxis${axis.slice(1)}`;
      layout[name] = convertAxis(layout[name], [symbol, toChosen]);
      layout.shapes = layout.shapes.map((shape) =>
        shape.yref === axis ? { ...shape, y0: toUnit(shape.y0), y1: toUnit(shape.y1) } : shape,
      );
      layout.annotations = layout.annotations.map((note) =>
        note.yref === axis ? { ...note, y: toUnit(note.y), text: convertText(note.text, unit, symbol, toUnit(note.y)) } : note,
      );
      data = data.map((trace) => ((trace.yaxis || "y") === axis ? convertTrace(trace, unit, symbol, toUnit) : trace));
    }
    return { data, layout };
  }

  dashtop.units = { convert, format, formatSize, convertFigure, decodeArray, decodeRows };
})();
