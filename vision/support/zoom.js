// Enlarges a picture that is clicked, or chosen by the keyboard: the arrow keys go on to the others
// of the page, Escape closes.
(() => {
  "use strict";
  const pictures = () => [...document.querySelectorAll("main button.zoom:not(:has(> [hidden]))")];
  let dialog = null;
  let shown = null; // the button whose picture is enlarged

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function build() {
    const button = (text, label, action) => {
      const made = element("button", { type: "button", "aria-label": label }, text);
      made.addEventListener("click", action);
      return made;
    };
    const view = element("div", { class: "view", tabindex: "0", role: "group", "aria-label": "Picture" });
    const bar = element("div", { class: "bar" }, element("p", { "aria-live": "polite" }),
      button("‹", "Previous picture", () => move(-1)), button("›", "Next picture", () => move(1)),
      button("Actual size", "Actual size", toggle), button("Close", "Close", () => dialog.close()));
    dialog = element("dialog", { id: "enlarged", "aria-label": "Enlarged picture" }, view, bar);
    view.addEventListener("click", toggle);
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", (event) => {
      const isScrolling = view.classList.contains("actual") && document.activeElement === view;
      const steps = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key in steps && !isScrolling) {
        event.preventDefault();
        move(steps[event.key]);
      }
    });
    dialog.addEventListener("close", () => {
      view.replaceChildren();
      shown.focus();
    });
    document.body.append(dialog);
  }

  function toggle() {
    dialog.querySelector(".view").classList.toggle("actual");
    const isActual = dialog.querySelector(".view").classList.contains("actual");
    const button = dialog.querySelectorAll(".bar button")[2];
    button.textContent = isActual ? "Fit" : "Actual size";
    button.setAttribute("aria-label", isActual ? "Fit into the window" : "Actual size");
  }

  function move(step) {
    const all = pictures();
    show(all[(all.indexOf(shown) + step + all.length) % all.length]);
  }

  // A copy of an <img>, or of what a <canvas> shows.
  function copy(picture) {
    if (picture.tagName !== "CANVAS") {
      return element("img", { src: picture.src, alt: picture.alt, class: picture.className });
    }
    const label = picture.getAttribute("aria-label");
    const canvas = element("canvas", { role: "img", "aria-label": label });
    [canvas.width, canvas.height] = [picture.width, picture.height];
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas;
  }

  function show(button) {
    shown = button;
    const all = pictures();
    const picture = button.firstElementChild;
    const view = dialog.querySelector(".view");
    if (view.classList.contains("actual")) toggle();
    view.replaceChildren(copy(picture));
    const place = all.length > 1 ? ` (${all.indexOf(button) + 1} of ${all.length})` : "";
    const card = button.closest(".card");
    const words = card ? card.textContent : picture.alt || picture.getAttribute("aria-label");
    dialog.querySelector("p").textContent = words.replace(/\s+/g, " ").trim() + place;
    for (const one of [...dialog.querySelectorAll(".bar button")].slice(0, 2)) {
      one.hidden = all.length < 2;
    }
    if (!dialog.open) dialog.showModal();
  }

  for (const picture of document.querySelectorAll("main img")) {
    const button = element("button", { type: "button", class: "zoom", title: "Enlarge" });
    picture.replaceWith(button);
    button.append(picture);
  }
  // A gallery is one stop of the Tab key; the arrow keys move within it.
  for (const gallery of document.querySelectorAll(".gallery")) {
    [...gallery.querySelectorAll("button.zoom")].slice(1).forEach((one) => { one.tabIndex = -1; });
  }
  document.addEventListener("keydown", (event) => {
    const button = document.activeElement;
    const gallery = button.matches("button.zoom") && button.closest(".gallery");
    if (!gallery || dialog?.open) return;
    const all = [...gallery.querySelectorAll("button.zoom")];
    const moves = { ArrowLeft: all.indexOf(button) - 1, ArrowRight: all.indexOf(button) + 1,
      Home: 0, End: all.length - 1 };
    const next = all[moves[event.key]];
    if (!next) return;
    event.preventDefault();
    button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("main button.zoom");
    if (!button) return;
    if (!dialog) build();
    show(button);
  });
})();
