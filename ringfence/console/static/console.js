// Keys, live updates and fresh times. Every page works without this file: keys press buttons that are there, and news
// only say that the page should be read again. Pages are parsed by the browser as documents (XMLHttpRequest), never
// from strings, so the policy allows no Trusted Type at all.
"use strict";
(() => {
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const span = (s) => {
    s = Math.max(Math.floor(s), 0);
    for (const [size, unit, below, lower] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
      if (s >= size) {
        const rest = Math.floor((s % size) / below);
        return Math.floor(s / size) + unit + (rest ? rest + lower : "");
      }
    }
    return s + "s";
  };
  const tick = () => {
    for (const time of all("time[data-ago]")) time.textContent = span((Date.now() - time.dataset.ago) / 1000) + " ago";
    for (const time of all("time[data-left]")) time.textContent = span((time.dataset.left - Date.now()) / 1000);
  };
  setInterval(tick, 5000);

  // Live: fetch this page again and exchange the parts that are marked, unless someone is typing in one.
  let pending = false, again = false;
  const refresh = () => {
    if (pending) { again = true; return; }
    pending = true;
    const request = new XMLHttpRequest();
    request.open("GET", location.href);
    request.responseType = "document";
    request.onloadend = () => {
      pending = false;
      if (request.status === 200 && request.response && request.responseURL.split("#")[0] === location.href.split("#")[0]) exchange(request.response);
      if (again) { again = false; refresh(); }
    };
    request.send();
  };
  const exchange = (fresh) => {
    for (const part of all("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (!other || part.isEqualNode(other)) continue;
      if (part.dataset.live === "card") { guard(part, other); continue; }
      if (part.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      const isAtEnd = part.dataset.live === "tail" && innerHeight + scrollY > document.body.scrollHeight - 120;
      part.replaceWith(document.importNode(other, true));
      if (focused) document.getElementById(focused)?.focus();
      if (isAtEnd) scrollTo(0, document.body.scrollHeight);
    }
    document.documentElement.dataset.refreshed = String(Number(document.documentElement.dataset.refreshed || 0) + 1);
    tick();
  };
  // A card never changes under the reader: it says that it did, and takes no key until it is looked at again.
  const guard = (part, other) => {
    if (part.dataset.state === other.dataset.state) return;
    part.dataset.stale = "yes";
    const note = one("#stale");
    if (note) note.hidden = false;
    for (const button of part.querySelectorAll("button")) button.disabled = true;
  };
  const source = one("[data-stream]")?.dataset.stream;
  if (source) {
    const events = new EventSource(source);
    // The first news is shown at once and what follows it a moment later: waiting for a pause would show a busy run never.
    let timer = 0, last = -Infinity;
    const soon = () => {
      if (timer) return;
      timer = setTimeout(() => { timer = 0; last = performance.now(); refresh(); }, Math.max(last + 80 - performance.now(), 10));
    };
    events.addEventListener("entry", soon);
    events.addEventListener("reload", soon);
    addEventListener("pagehide", () => events.close());
  }

  // Keys. Approving and denying take two strokes: the first arms the button, the second presses it.
  const help = one("#keys");
  const step = (by) => {
    const links = all(".stack a.slip, [data-step]");
    const at = links.findIndex((link) => link.hasAttribute("aria-current"));
    const next = links[Math.min(Math.max(at + by, 0), links.length - 1)];
    if (next && links.indexOf(next) !== at) next.click();
  };
  const arm = (button) => {
    if (!button || button.disabled) return;
    if (button.classList.contains("armed")) { button.click(); return; }
    for (const other of all("button.armed")) other.classList.remove("armed");
    button.classList.add("armed");
    button.focus();
  };
  addEventListener("focusin", (event) => {
    for (const other of all("button.armed")) if (other !== event.target) other.classList.remove("armed");
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape") { event.target.blur?.(); return; }
    if (typing || help?.open) return;
    if (event.key === "?") { help?.showModal(); event.preventDefault(); return; }
    if (one("[data-stale]")) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "e") { const edit = one("#edit"); if (edit) { edit.open = true; edit.querySelector("textarea").focus(); event.preventDefault(); } }
    else if (/^[1-9]$/.test(event.key)) one(`[data-finding="${event.key}"]`)?.click();
    else { const button = one(`button[data-key="${CSS.escape(event.key)}"]`); if (button) { arm(button); event.preventDefault(); } }
  });
  addEventListener("click", (event) => {
    if (event.target.closest?.("[data-help]")) help?.showModal();
    if (event.target.closest?.("[data-close]")) help?.close();
    const copied = event.target.closest?.("[data-copy]");
    if (copied) navigator.clipboard?.writeText(copied.dataset.copy).then(() => { copied.textContent = "copied"; });
  });
  tick();
  document.documentElement.dataset.ready = "yes";
})();
