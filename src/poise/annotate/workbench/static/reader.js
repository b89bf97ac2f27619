// Search in the guideline reader: pages without all the words are hidden, letters jump to their page, / goes to the box.
const box = document.querySelector("[data-search]");
const pages = [...document.querySelectorAll("[data-page]")];
const texts = pages.map((page) => page.textContent.toLowerCase().replace(/\s+/g, " "));
const found = document.querySelector("[data-found]");
const nothing = document.querySelector("[data-nothing]");

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  pages.forEach((page, place) => {
    const fits = words.every((word) => texts[place].includes(word));
    page.hidden = !fits;
    shown += fits ? 1 : 0;
    const link = document.querySelector(`.lead-index a[href="#${page.id}"]`);
    if (link) link.parentElement.hidden = !fits;
  });
  nothing.hidden = shown > 0;
  found.textContent = words.length ? `${shown} of ${pages.length} pages` : "";
}

function go(page) {
  page.scrollIntoView();
  page.focus({ preventScroll: true });
}

box.addEventListener("input", search);
document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target === box) {
    if (event.key === "Escape") { box.value = ""; search(); box.blur(); }
    return;
  }
  if (document.body.dataset.keys === "off") return;
  if (event.key === "/") { event.preventDefault(); box.focus(); return; }
  const page = /^[a-s]$/.test(event.key) ? document.getElementById(event.key) : null;
  if (page && !page.hidden) { event.preventDefault(); go(page); }
});

const open = document.querySelector("[data-open]");
if (open && !location.hash) go(open);
