// The service worker: shows notifications, and keeps the page readable while the server is away. dashtop serves it below
// the prefix of its pages (app/dashtop/ui/service_worker.py), which is its scope.
//
// The network comes first, always: what is stored answers only where no server does. Measured values are never answered
// from here; the page keeps its last ones (assets/stored-page.js) and shows them as old.
"use strict";

// The server fills in these two: a version that changes with any file of the page, and what a page loads, below the scope.
const VERSION = "VERSION";
const PATHS = "FILE_PATHS";
const { scope } = self.registration;
const FILES = `dashtop files ${scope} `;
const CACHE = FILES + VERSION;
const VALUES = `dashtop values ${scope}`; // as in assets/stored-page.js
const PAGE_TIMEOUT_MS = 8000;
const GATEWAY_ERRORS = [502, 503, 504];
const REFUSALS = [401, 403];

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(removeOldFiles().then(() => self.clients.claim())));

async function removeOldFiles() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith(FILES) && name !== CACHE).map((name) => caches.delete(name)));
}

// Whoever may no longer open the page may not read the stored one either.
async function forget() {
  await Promise.all([caches.delete(CACHE), caches.delete(VALUES)]);
}

// The path below the scope, without the query; null elsewhere.
function findPath(address) {
  return address.startsWith(scope) ? new URL(address).href.slice(scope.length).split(/[?#]/)[0] : null;
}

// Files in folders have addresses that change with their content.
const isInFolder = (path) => PATHS.some((each) => each.endsWith("/") && path.startsWith(each));
const isFile = (path) => PATHS.includes(path) || isInFolder(path);

const keyOf = (address) => (findPath(address) === "" ? scope : address);
const isKept = (response) => response.ok && response.type === "basic" && !response.redirected;

async function keep(address, response) {
  await (await caches.open(CACHE)).put(keyOf(address), response);
}

const findStored = (address) => caches.match(keyOf(address), { cacheName: CACHE, ignoreVary: true });

// --- files ------------------------------------------------------------------------------------------------------------

async function answerFile({ request }) {
  try {
    const response = await fetch(request);
    const isNew = !isInFolder(findPath(request.url)) || !(await findStored(request.url));
    if (isKept(response) && isNew) await keep(request.url, response.clone());
    return response;
  } catch (error) {
    const stored = await findStored(request.url);
    if (!stored) throw error;
    return stored;
  }
}

// --- the page ---------------------------------------------------------------------------------------------------------

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Returns the stored page, which knows by an attribute that it is one; undefined if there is none.
async function findStoredPage() {
  const stored = await findStored(scope);
  if (!stored) return undefined;
  const headers = new Headers(stored.headers);
  for (const name of ["Content-Encoding", "Content-Length"]) headers.delete(name);
  return new Response((await stored.text()).replace("<html", '<html data-stored=""'), { headers });
}

async function answerPage({ request }) {
  const network = fetch(request);
  const response = await Promise.race([network, wait(PAGE_TIMEOUT_MS)]).catch(() => undefined);
  if (!response || GATEWAY_ERRORS.includes(response.status)) return (await findStoredPage()) || response || network;
  if (REFUSALS.includes(response.status)) await forget();
  else if (isKept(response)) await keep(request.url, response.clone());
  return response;
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const path = findPath(request.url);
  if (request.method !== "GET" || path === null) return;
  if (request.mode === "navigate" && path === "") event.respondWith(answerPage(event));
  else if (request.mode !== "navigate" && isFile(path)) event.respondWith(answerFile(event));
});

// A page names what it has loaded: its first files came before there was a service worker.
async function keepMissing(addresses) {
  for (const address of addresses) {
    const path = findPath(address);
    if (path === null || (path !== "" && !isFile(path)) || (await findStored(address))) continue;
    const response = await fetch(keyOf(address));
    if (isKept(response)) await keep(address, response);
  }
}

self.addEventListener("message", (event) => {
  if (event.data.type === "keep") event.waitUntil(keepMissing(event.data.addresses));
});

// --- notifications ----------------------------------------------------------------------------------------------------

// Shows `address` in a tab of dashtop that is open, or in a new one. Panels in frames are no tabs.
async function open(address) {
  const windows = await self.clients.matchAll({ type: "window" });
  const tab = windows.find((each) => each.frameType === "top-level" && findPath(each.url) === "");
  if (!tab) return self.clients.openWindow(new URL(address, scope).href);
  tab.postMessage({ type: "open", address });
  return tab.focus();
}

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.address));
});
