// The service worker: shows notifications, and opens what one is about when it is clicked. dashtop serves it below the
// prefix of its pages (app/dashtop/ui/service_worker.py), which is its scope.
"use strict";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// --- notifications ----------------------------------------------------------------------------------------------------

// Shows `address` in a tab of dashtop that is open, or in a new one. Panels in frames are no tabs.
async function open(address) {
  const windows = await self.clients.matchAll({ type: "window" });
  const tab = windows.find((each) => each.frameType === "top-level" && new URL(each.url).pathname === new URL(self.registration.scope).pathname);
  if (!tab) return self.clients.openWindow(new URL(address, self.registration.scope).href);
  tab.postMessage({ type: "open", address });
  return tab.focus();
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.address));
});
