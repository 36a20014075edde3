// Units: values travel in °C, GiB and MiB, and become what the reader has chosen here and nowhere else.
(function () {
  "use strict";

  const dashtop = window.dashtop;

  const OTHERS = {
    temperature: { "°C": ["°F", (value) => value * 1.8 + 32], K: ["°F", (value) => value * 1.8] },
    memory: { GiB: ["GB", (value) => value * 1.073741824], MiB: ["MB", (value) => value * 1.048576] },
  };
  const DEFAULTS = { temperature: "C", memory: "GiB" };

  // K is a difference of temperatures: no sum of 32 in it.
  function conversion(unit) {
    const kind = Object.keys(OTHERS).find((each) => unit in OTHERS[each]);
    return kind && dashtop.state.get(kind) !== DEFAULTS[kind] ? OTHERS[kind][unit] : null;
  }

  function shown(value, unit) {
    const other = conversion(unit);
    if (!other) return { value, symbol: unit };
    return { value: value === null ? null : other[1](value), symbol: other[0] };
  }

  // "1.5 GiB": a value with its unit.
  function text(value, unit, digits = 1) {
    const found = shown(value, unit);
    return `${found.value.toFixed(digits)} ${found.symbol}`;
  }

  // A size in MiB, in whichever of two units it is short in.
  function size(mib) {
    const small = shown(mib, "MiB");
    return small.value >= (small.symbol === "MB" ? 1000 : 1024) ? text(mib / 1024, "GiB") : text(mib, "MiB", 0);
  }

  function decoded(array) {
    if (Array.isArray(array)) return array;
    const bytes = Uint8Array.from(atob(array.bdata), (letter) => letter.charCodeAt(0));
    return Array.from(new Float32Array(bytes.buffer));
  }

  // An array of two dimensions: its shape is "rows,columns".
  function rows(array) {
    const columns = Number(array.shape.split(",")[1]);
    const flat = decoded(array);
    return Array.from({ length: flat.length / columns }, (_, row) => flat.slice(row * columns, (row + 1) * columns));
  }

  // Words like "warning 83 °C" and formats like "%{y:.1f} °C".
  function reworded(text, unit, symbol, value) {
    const number = new RegExp(`\\d+(?:\\.(\\d+))? ${unit}`);
    return text
      .replace(number, (_, decimals) => `${value.toFixed((decimals || "").length)} ${symbol}`)
      .replace(` ${unit}`, ` ${symbol}`);
  }

  // Round steps of an axis: 1, 2, 4, 5 and tens of them.
  function step(least) {
    const ten = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 4, 5, 10].find((each) => each * ten >= least) * ten;
  }

  function short(value) {
    return value >= 100 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, "");
  }

  function convertAxis(axis, [, convert]) {
    const converted = { ...axis };
    if (axis.range) converted.range = axis.range.map(convert);
    if (axis.tickvals) {
      converted.tickvals = axis.tickvals.map(convert);
      converted.ticktext = converted.tickvals.map(short);
    }
    if (axis.dtick) converted.dtick = step(convert(axis.dtick) - convert(0));
    return converted;
  }

  // A figure of one or two value axes, whose units stand in layout.meta by axis.
  function figure(original) {
    const units = original.layout.meta || {};
    const used = Object.entries(units).filter(([, unit]) => conversion(unit));
    if (used.length === 0) return original;
    const layout = { ...original.layout };
    let { data } = original;
    for (const [axis, unit] of used) {
      const other = conversion(unit);
      const convert = (value) => (Number.isFinite(value) ? other[1](value) : null);
      const name = `yaxis${axis.slice(1)}`;
      layout[name] = convertAxis(layout[name], other);
      layout.shapes = layout.shapes.map((shape) =>
        shape.yref === axis ? { ...shape, y0: convert(shape.y0), y1: convert(shape.y1) } : shape,
      );
      layout.annotations = layout.annotations.map((note) =>
        note.yref === axis ? { ...note, y: convert(note.y), text: reworded(note.text, unit, other[0], convert(note.y)) } : note,
      );
      data = data.map((trace) => {
        if ((trace.yaxis || "y") !== axis) return trace;
        const template = trace.hovertemplate && reworded(trace.hovertemplate, unit, other[0]);
        const converted = { ...trace, y: decoded(trace.y).map(convert) };
        if (template) converted.hovertemplate = template;
        if (trace.customdata) converted.customdata = rows(trace.customdata).map((row) => row.map(convert));
        return converted;
      });
    }
    return { data, layout };
  }

  dashtop.units = { shown, text, size, figure, decoded };
})();
