// Folded parts are opened for printing and folded again afterwards; the contents show where the reader is.
const folded = new Set();
addEventListener("beforeprint", () => {
  document.querySelectorAll("details:not([open])").forEach((part) => {
    folded.add(part);
    part.open = true;
  });
});
addEventListener("afterprint", () => {
  folded.forEach((part) => (part.open = false));
  folded.clear();
});
const links = new Map(
  [...document.querySelectorAll("nav li a")].map((link) => [link.getAttribute("href").slice(1), link]),
);
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        links.forEach((link) => link.removeAttribute("aria-current"));
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }
  },
  { rootMargin: "-10% 0px -80% 0px" },
);
document.querySelectorAll("section.part").forEach((part) => seen.observe(part));
