// The components StaticTree and LazyGraph, see app/dashtop/ui/dash_internals.py. StaticTree: plain elements, with the
// components of Dash in their places.
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

  // The graph of Dash, once it has a figure.
  function LazyGraph(props) {
    const { createElement } = window.React;
    if (!props.figure) return createElement("div", { id: props.id, className: "dash-graph" });
    return createElement(window.dash_core_components.Graph, props);
  }

  Object.assign(window.dashtop, { StaticTree, LazyGraph });
})();
