"use strict";
// Comfort only: without this script everything is there, in the lists below the diagrams.
(() => {
  const all = (selector, below = document) => [...below.querySelectorAll(selector)];

  for (const group of all(".filter")) {
    const kata = group.closest(".kata");
    const buttons = all("button", group);
    group.hidden = false;
    group.addEventListener("click", (event) => {
      const chosen = event.target.closest("button");
      if (!chosen) return;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
      kata.classList.toggle("filtered", chosen.dataset.show === "open");
    });
  }

  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.previousElementSibling;
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(text);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
  }

  // A hidden behaviour that a link leads to is shown again.
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const kata = target && target.closest(".filtered");
    if (!kata) return;
    kata.querySelector("[data-show=all]").click();
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);

  // What a pointer rests on is shown with its bytes; a click opens it in the list.
  let popup = null;
  const leave = () => { if (popup) popup.remove(); popup = null; };
  const entryOf = (step) => step.closest(".diagram-of").querySelector(`li[data-event="${step.dataset.event}"]`);
  const show = (step, x, y) => {
    leave();
    popup = document.createElement("div");
    popup.className = "popup";
    popup.append(...[...entryOf(step).childNodes].map((node) => node.cloneNode(true)));
    for (const details of all("details", popup)) details.open = true;
    document.body.append(popup);
    const room = document.documentElement.clientWidth - popup.offsetWidth - 16;
    const below = y + 18 + popup.offsetHeight < innerHeight;
    popup.style.left = `${scrollX + Math.max(16, Math.min(x, room))}px`;
    popup.style.top = `${scrollY + (below ? y + 18 : Math.max(8, y - popup.offsetHeight - 12))}px`;
  };
  for (const canvas of all(".canvas")) {
    canvas.classList.add("interactive");
    for (const title of all(".step > title", canvas)) title.remove();
    canvas.addEventListener("mouseover", (event) => {
      const step = event.target.closest(".step");
      if (step) show(step, event.clientX, event.clientY); else leave();
    });
    canvas.addEventListener("mouseleave", leave);
    canvas.addEventListener("click", (event) => {
      const step = event.target.closest(".step");
      if (!step) return;
      const entry = entryOf(step);
      leave();
      entry.closest(".events").open = true;
      const bytes = entry.querySelector(".bytes");
      if (bytes) bytes.open = true;
      const summary = entry.querySelector("summary") || entry.closest(".events").querySelector("summary");
      summary.focus({ preventScroll: true });
      entry.scrollIntoView({ block: "center" });
    });
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") leave(); });
  addEventListener("scroll", leave, { passive: true });

  // On paper nothing can be opened; hints stay closed.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open]):not(.hint):not(.bytes)");
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
