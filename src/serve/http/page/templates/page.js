// Follows what happens: the server names the parts of the page that have changed, they are fetched and put in place. Without this
// script a reload shows the same.
"use strict";
(() => {
  const { live, here } = document.body.dataset;
  const note = document.getElementById("live");
  if (!live || !note || !window.EventSource) return;

  // The server speaks at least every 10 s.
  const SILENT_MS = 25000;
  let last = Date.now();
  let newest = null;
  let busy = false;
  let away = false;

  const say = (on, words) => {
    note.className = on ? "live on" : "live cut";
    if (note.textContent !== words) note.textContent = words;
  };
  // The page's own address may hold the password that it was opened with, which no further question may.
  const at = (address) => new URL(address, location.origin).href;
  const clock = () => new Date().toISOString().slice(11, 19) + " UTC";

  const versions = (root) =>
    [...root.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part.dataset.version]);

  // What a person holds on to is left alone until they let go of it.
  const held = (part) => {
    const marked = document.getSelection();
    return marked && !marked.isCollapsed && part.contains(marked.anchorNode);
  };

  // Everything where the focus can stand, in order.
  const stops = (root) => [...root.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];

  // Where the focus stands, as it is found again in other content: by its own name, else by its place among its like.
  const finder = (old) => {
    const active = document.activeElement;
    if (!old.contains(active)) return () => null;
    const same = (root) => stops(root).filter((one) => one.tagName === active.tagName && one.className === active.className);
    const at = same(old).indexOf(active);
    const summary = active.tagName === "SUMMARY" && active.parentElement.id;
    const href = active.getAttribute("href");
    const mark = summary ? `#${CSS.escape(summary)} > summary` : active.id ? "#" + CSS.escape(active.id) : href && `a[href="${CSS.escape(href)}"]`;
    return () => (mark ? old.querySelector(mark) : same(old)[at]);
  };

  // Puts new content in place of old: open and closed sections, focus and scrolled tables stay as they are.
  const replace = (old, fresh) => {
    const shut = new Map([...old.querySelectorAll("details[id]")].map((one) => [one.id, one.open]));
    const moved = [...old.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    const focused = finder(old);
    for (const one of fresh.querySelectorAll("details[id]")) if (shut.has(one.id)) one.open = shut.get(one.id);
    old.replaceChildren(...fresh.childNodes);
    old.querySelectorAll(".scroll").forEach((one, at) => { one.scrollLeft = moved[at] || 0; });
    focused()?.focus({ preventScroll: true });
  };

  const fetchParts = async (names) => {
    const address = here + (here.includes("?") ? "&" : "?") + "parts=" + encodeURIComponent(names);
    const answer = await fetch(at(address), { credentials: "same-origin", cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    return new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("parts");
  };

  const follow = async () => {
    if (busy || away || !newest || document.hidden) return;
    busy = true;
    try {
      const shown = versions(document);
      const sameParts = newest.length === shown.length && newest.every(([id], at) => id === shown[at][0]);
      const changed = newest.filter(([, version], at) => !sameParts || version !== shown[at][1]).map(([id]) => id);
      if (changed.length > 0) {
        const fresh = await fetchParts(sameParts ? changed.join(",") : "*");
        if (sameParts) {
          for (const part of fresh.querySelectorAll("[data-part]")) {
            const old = document.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
            if (!old || held(old)) continue;
            replace(old, part);
            old.dataset.version = part.dataset.version;
          }
        } else if (!held(document.getElementById("parts"))) {
          replace(document.getElementById("parts"), fresh);
        }
        document.title = fresh.dataset.title + " · vtelector";
      }
      say(true, "Live, " + clock());
    } catch (error) {
      say(false, "Cut off since " + clock() + ": reload");
    } finally {
      busy = false;
    }
  };

  const heard = (event) => {
    last = Date.now();
    away = event.type === "away" || (away && event.type === "beat");
    if (away) return say(false, "Nobody tells of it, " + clock());
    if (event.type === "parts") newest = JSON.parse(event.data);
    follow();
  };
  const source = new EventSource(at(live));
  source.addEventListener("parts", heard);
  source.addEventListener("beat", heard);
  source.addEventListener("away", heard);
  source.addEventListener("gone", () => location.reload());
  source.addEventListener("error", () => say(false, "Cut off since " + clock() + ": reload"));
  document.addEventListener("visibilitychange", follow);
  setInterval(() => { if (Date.now() - last > SILENT_MS) say(false, "Nothing heard since " + new Date(last).toISOString().slice(11, 19) + " UTC"); }, 5000);
  // A connection that is kept open must not outlive the page.
  addEventListener("pagehide", () => source.close());
})();
