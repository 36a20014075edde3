// Checks the scripts of the page: python3 tests/run.py runs this where npm is installed.
const browser = [
  "AbortController", "AbortSignal", "DOMException", "EventSource", "FormData", "IntersectionObserver", "MutationObserver", "Notification", "ResizeObserver", "Response", "URL", "URLSearchParams", "atob", "caches", "cancelAnimationFrame", "clearInterval", "clearTimeout", "console",
  "document", "fetch", "navigator", "performance", "requestAnimationFrame", "setInterval", "setTimeout", "window",
];

export default [
  { ignores: ["assets/vendor/**"] },
  {
    files: ["assets/*.js"],
    languageOptions: {
      ecmaVersion: 2022,
      sourceType: "script",
      globals: Object.fromEntries(browser.map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "array-callback-return": "error",
      "consistent-return": "off",
      eqeqeq: "error",
      "no-const-assign": "error",
      "no-dupe-keys": "error",
      "no-implicit-globals": "error",
      "no-redeclare": "error",
      "no-shadow": "error",
      "no-undef": "error",
      "no-unreachable": "error",
      "no-unused-vars": "error",
      "no-use-before-define": ["error", { functions: false, variables: false }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      strict: ["error", "function"],
    },
  },
  {
    // A service worker: a script of its own, with other globals.
    files: ["assets/sw.js"],
    languageOptions: {
      globals: Object.fromEntries(["Headers", "Response", "URL", "caches", "fetch", "self", "setTimeout"].map((name) => [name, "readonly"])),
    },
    rules: { "no-implicit-globals": "off", strict: ["error", "global"] },
  },
];
