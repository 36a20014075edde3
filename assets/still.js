// Plain elements, and where among them the components of Dash stand (app/dashtop/ui/still.py).
(function () {
  "use strict";

  function Still({ tree, children }) {
    const standing = [].concat(children);
    const build = (node) => {
      if (typeof node === "number") return standing[node];
      return Array.isArray(node) ? window.React.createElement(node[0], node[1], ...node.slice(2).map(build)) : node;
    };
    return build(tree);
  }

  window.dashtop.Still = Still;
})();
