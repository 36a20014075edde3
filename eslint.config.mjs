// Checks the scripts of the page: python3 tests/run.py runs this where npm is installed.
const browser = [
  "AbortSignal", "FormData", "IntersectionObserver", "MutationObserver", "ResizeObserver", "URL", "URLSearchParams", "atob", "cancelAnimationFrame", "clearTimeout",
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
];
