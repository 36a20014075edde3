// The component StaticTree: plain elements, with the components of Dash in their places (app/dashtop/ui/dash_internals.py).
(function () {
  "use strict";

  function StaticTree({ tree, children }) {
    const components = [].concat(children);
    const build = (node) => {
      if (typeof node === "number") return components[node];
      return Array.isArray(node) ? window.React.createElement(node[0], node[1], ...node.slice(2).map(build)) : node;
    };
    return build(tree);
  }

  window.dashtop.StaticTree = StaticTree;
})();
