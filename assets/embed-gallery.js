// The gallery of panels (app/dashtop/ui/templates/gallery.html): previews, and the code to copy, follow the chosen options.
(function () {
  "use strict";

  const COPIED_MS = 1500;
  const form = document.querySelector("form");

  function escapeAttribute(text) {
    return text.replace(/&/g, "&amp;").replace(/"/g, "&quot;").replace(/</g, "&lt;");
  }

  function show(item) {
    const frame = item.querySelector("iframe");
    const url = new URL(frame.dataset.src, window.location.href);
    for (const [name, value] of new FormData(form)) {
      if (name !== "gpu" || !("allGpus" in item.dataset)) url.searchParams.set(name, value);
    }
    item.dataset.address = url.href;
    if (item.dataset.visible) frame.src = url.href;
    const size = `width="600" height="${frame.getAttribute("height")}"`;
    const theme = url.searchParams.get("theme");
    const style = `border: 0; color-scheme: ${theme === "system" ? "light dark" : theme}`; // see embed.css
    const code = `<iframe src="${escapeAttribute(url.href)}" ${size} title="${escapeAttribute(frame.title)}" style="${style}"></iframe>`;
    item.querySelector("code").textContent = code;
  }

  // Each preview is a page of its own: only those that are seen are loaded. (loading="lazy" loads far more.)
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      target.dataset.visible = "true";
      target.querySelector("iframe").src = target.dataset.address;
    }
  });

  const showAll = () => document.querySelectorAll("li[data-panel]").forEach(show);

  form.addEventListener("change", showAll);
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const code = button.closest("li").querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Not allowed without HTTPS: the code is selected instead.
      window.getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
  });
  showAll();
  document.querySelectorAll("li[data-panel]").forEach((item) => observer.observe(item));
})();
