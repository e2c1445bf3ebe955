// Marks the section that is read in the table of contents, and lets the keyboard reach a table that
// has to be scrolled.
(() => {
  "use strict";
  const links = new Map([...document.querySelectorAll(".contents a")]
    .map((link) => [document.getElementById(link.hash.slice(1)), link]));

  function mark() {
    const heads = [...links.keys()].filter((head) => head.getClientRects().length);
    const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const above = heads.filter((head) => head.getBoundingClientRect().top < 120);
    const current = links.get(isAtEnd && scrollY > 0 ? heads.at(-1) : above.at(-1));
    for (const link of links.values()) {
      if (link === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (!current) return;
    const strip = current.closest(".contents");
    const [box, frame] = [current.getBoundingClientRect(), strip.getBoundingClientRect()];
    if (box.left < frame.left || box.right > frame.right) strip.scrollLeft += box.left - frame.left - 16;
    if (box.top < frame.top || box.bottom > frame.bottom) strip.scrollTop += box.top - frame.top - 40;
  }

  // Only while there is more to see: otherwise each table would be a stop of the Tab key.
  function open(container) {
    const isScrolled = container.scrollWidth > container.clientWidth + 1;
    if (!isScrolled) {
      for (const name of ["tabindex", "role", "aria-label"]) container.removeAttribute(name);
      return;
    }
    const heads = [...document.querySelectorAll("main :is(h1, h2, h3)")];
    const precedes = (head) =>
      head.compareDocumentPosition(container) & Node.DOCUMENT_POSITION_FOLLOWING;
    const title = heads.filter(precedes).at(-1)?.textContent ?? document.title;
    container.tabIndex = 0;
    container.setAttribute("role", "group");
    container.setAttribute("aria-label", `Table, wider than the page: ${title.trim()}`);
  }

  const resized = new ResizeObserver((entries) => entries.forEach((entry) =>
    open(entry.target.closest(".wide"))));
  for (const container of document.querySelectorAll(".wide")) {
    resized.observe(container);
    for (const table of container.children) resized.observe(table);
  }
  if (links.size) {
    addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(document.body); // at once, and when another script adds to it
  }
})();
