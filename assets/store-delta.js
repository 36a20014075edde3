// Puts snapshots together: the server sends only the parts that this page does not have (app/dashtop/ui/parts.py).
(function () {
  "use strict";

  const parts = {};
  const versions = {};

  function toObject(columns, row) {
    return Object.fromEntries(columns.map((name, position) => [name, row[position]]));
  }

  // Returns the whole snapshot of what the store "live" has received; rows of tables become objects.
  function merge(live) {
    for (const [name, version] of Object.entries(live.versions || {})) {
      parts[name] = live[name];
      versions[name] = version;
    }
    const snapshot = { ...parts, ...live };
    for (const [name, columns] of Object.entries(parts.columns || {})) {
      if (live[name]) snapshot[name] = live[name].map((row) => toObject(columns, row));
    }
    snapshot.values = { ...snapshot.slow_values, ...(snapshot.values || [])[0] };
    return snapshot;
  }

  window.dashtop.storeDelta = {
    merge,
    versions: () => versions,
    setVersion: (name, version) => (versions[name] = version),
    // The answer to the next request brings that part again.
    forget(name) {
      delete parts[name];
      delete versions[name];
    },
  };
})();
