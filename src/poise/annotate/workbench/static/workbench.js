// On every page: the key that hides everything at once, and how pages listen to keys and send forms.

const veil = document.getElementById("veil");
const page = document.getElementById("page");
let before = null;

/** Whether everything is hidden now. */
export const veiled = () => !veil.hidden;

/** Hide everything, or show it again. */
export function hide(on) {
  if (on === veiled()) return;
  if (on) before = document.activeElement;
  veil.hidden = !on;
  page.inert = on;
  page.style.visibility = on ? "hidden" : "";
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  if (on) document.getElementById("unhide").focus();
  else focusOn(before && before.isConnected && before !== document.body ? before : document.getElementById("main"));
}

/** Put the focus somewhere without moving the page; a button that was hidden must not keep it. */
export function focusOn(element) {
  element.focus({ preventScroll: true });
}

/** Tell people who listen to the page. */
export function say(text) {
  document.getElementById("say").textContent = text;
}

/** Send fields to the server; resolves to {status, body}, status 0 when it was not reached. */
export async function send(path, fields, more = {}) {
  const headers = { accept: "application/json", "x-csrf-token": document.body.dataset.csrf };
  try {
    const answer = await fetch(path, { method: "POST", headers, body: new URLSearchParams(fields), ...more });
    const json = (answer.headers.get("content-type") || "").includes("json");
    return { status: answer.status, body: json ? await answer.json() : {} };
  } catch {
    return { status: 0, body: {} };
  }
}

/** Call `on(key, event)` for each single key that is not typed into a field and not part of a shortcut of the browser. */
export function onKey(on) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
    const field = event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select");
    if (field) return;
    const single = event.key.length === 1;
    if (single && document.body.dataset.keys === "off") return;
    if (single && event.key !== "?" && document.querySelector("dialog[open]")) return;
    on(single ? event.key.toLowerCase() : event.key, event);
  });
}

document.getElementById("hide")?.addEventListener("click", () => hide(true));
document.getElementById("unhide").addEventListener("click", () => hide(false));
onKey((key, event) => {
  if (key !== "z") return;
  event.preventDefault();
  hide(!veiled());
});
