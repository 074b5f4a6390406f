// What every page has to be. Returns what is wrong, in words.
(() => {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const short = (one) => one.outerHTML.slice(0, 120);
  const seen = (one) => one.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true }) && one.getClientRects().length > 0;

  if (document.documentElement.scrollWidth > document.documentElement.clientWidth)
    wrong.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${document.documentElement.clientWidth}: ` +
      all("main *").filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.parentElement.closest(".scroll")).map(short).slice(0, 3).join(" | "));
  if (document.documentElement.lang !== "en") wrong.push("no language");
  if (all("main").length !== 1) wrong.push("not one main");
  if (all("h1").length !== 1) wrong.push(`${all("h1").length} h1`);
  if (!document.title) wrong.push("no title");
  if (all("script").some((one) => !one.src) || all("style, [style]").length || all("*").some((one) => [...one.attributes].some((a) => a.name.startsWith("on"))))
    wrong.push("something inline");
  const outside = performance.getEntriesByType("resource").filter((one) => new URL(one.name).origin !== location.origin);
  for (const one of outside) wrong.push(`from outside: ${one.name}`);

  const ids = all("[id]").map((one) => one.id);
  for (const id of ids) if (ids.filter((other) => other === id).length > 1) wrong.push(`the id ${id} is there twice`);
  let level = 0;
  for (const one of all("h1, h2, h3, h4")) {
    if (Number(one.tagName[1]) > level + 1) wrong.push(`${short(one)} after a heading of level ${level}`);
    level = Number(one.tagName[1]);
  }
  for (const one of all("[aria-labelledby]")) if (!document.getElementById(one.getAttribute("aria-labelledby"))) wrong.push(`no label: ${short(one)}`);
  for (const one of all("input:not([type=hidden]), select, textarea"))
    if (!one.labels?.length && !one.getAttribute("aria-label")) wrong.push(`no label: ${short(one)}`);
  for (const one of all("a, button")) if (!(one.innerText || one.textContent).trim() && !one.getAttribute("aria-label")) wrong.push(`no words: ${short(one)}`);
  for (const one of all("a[href]")) if (!/^https?:$/.test(one.protocol) || one.origin !== location.origin) wrong.push(`leads away: ${short(one)}`);
  for (const one of all("th")) if (!one.scope) wrong.push(`no scope: ${short(one)}`);
  for (const one of all("main table")) if (!one.caption && !one.closest("[aria-label]")) wrong.push(`no caption: ${short(one)}`);
  for (const one of all(".scroll")) if (one.tabIndex !== 0) wrong.push(`cannot be scrolled by keys: ${short(one)}`);

  // Words of two elements that a template has glued together.
  const block = (text) => { let up = text.parentElement; while (getComputedStyle(up).display === "inline") up = up.parentElement; return up; };
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let last = null, text = texts.nextNode(); text; last = text, text = texts.nextNode())
    if (last && /\w$/.test(last.data) && /^\w/.test(text.data) && block(last) === block(text) && getComputedStyle(block(text)).display === "block" && !text.previousElementSibling?.matches("br"))
      wrong.push(`glued: ${last.data.slice(-20)}|${text.data.slice(0, 20)}`);

  // Contrast of every text that is seen: 4.5, or 3 where it is large.
  const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (let up = one; up; up = up.parentElement) {
      const color = rgb(getComputedStyle(up).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const known = new Set();
  for (const one of all("body *")) {
    if (![...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !seen(one) || one.closest(".unseen, .skip, noscript")) continue;
    const style = getComputedStyle(one);
    const [front, back] = [rgb(style.color), behind(one)];
    const key = `${front} on ${back} ${style.fontSize} ${style.fontWeight}`;
    if (known.has(key)) continue;
    known.add(key);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) wrong.push(`contrast ${ratio.toFixed(2)} of ${key}: ${short(one)}`);
    if (size < 13) wrong.push(`small: ${short(one)}`);
  }
  return wrong;
})()
