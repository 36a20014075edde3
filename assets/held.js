// Parts of a frame that seldom change are sent once. Here they are kept, and put back into the frames that follow.
(function () {
  "use strict";

  const parts = {};
  const tags = {};

  function whole(frame) {
    for (const [name, tag] of Object.entries(frame.tags || {})) {
      tags[name] = tag;
      parts[name] = frame[name];
    }
    const filled = { ...parts, ...frame };
    const values = (frame.values || []).map((value, position) => [filled.names[position], value]);
    filled.values = { ...filled.seldom, ...Object.fromEntries(values) };
    return filled;
  }

  window.dashtop.held = { whole, tags: () => tags };
})();
