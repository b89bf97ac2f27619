// The screens of tasks: keys, drafts, the lease, the item loaded ahead, and sending the answer once.

import { focusOn, onKey, say, send, veiled } from "/static/workbench.js";

const main = document.getElementById("main");
const AGAIN_MS = 400;
let form, lease, stage, opened, over, sending, changed, timer, since, spentBefore, next, remembered, moved;

const all = (selector) => [...form.querySelectorAll(selector)];
const one = (selector) => form.querySelector(selector);
const path = (what) => `/task/${lease}/${what}`;
const key = () => `draft ${form.dataset.me} ${form.elements.item.value}`;

function fault(text) {
  const line = one("#fault");
  line.hidden = !text;
  line.textContent = text;
}

// --- what is chosen -------------------------------------------------------------------------------------------------

function verdict() {
  const [text, whole] = stage === "qa" ? labelled() : chosen();
  one("#verdict").textContent = text;
  one("#submit").setAttribute("aria-disabled", String(!whole));
  return whole;
}

function labelled() {
  const names = all("[name=category]:checked").map((box) => box.dataset.name);
  const level = one("[name=severity]:checked")?.value;
  if (level === "0") return ["Will be stored: no harm.", true];
  if (!names.length && !level) return ["Press 0 for no harm, or name what is in it.", false];
  if (!names.length) return ["Name at least one category, or press 0 for no harm.", false];
  if (!level) return [`${names.join(", ")}: how severe? Press 1, 2 or 3.`, false];
  return [`Will be stored: ${["", "minor", "moderate", "severe"][level]}; ${names.join(", ")}.`, true];
}

function chosen() {
  const name = (line) => line.querySelector("legend").firstChild.textContent.trim();
  const told = [];
  const missing = [];
  for (const line of all(".line[data-question]")) {
    const word = line.querySelector(":checked")?.closest("label").querySelector("span").textContent;
    if (word) told.push(`${name(line)}: ${word.toLowerCase()}.`);
    else missing.push(name(line));
  }
  if (missing.length) told.push(`Still open: ${missing.join(", ")}.`);
  return [told.join(" "), !missing.length];
}

function pick(field) {
  if (field.type === "radio") {
    if (field.name === "severity" && field.value === "0") return noHarm(field);
    field.checked = true;
  } else {
    field.checked = !field.checked;
  }
  after(field);
}

function noHarm(field) {
  const boxes = all("[name=category]");
  if (field.checked && remembered) {
    boxes.forEach((box) => { box.checked = remembered.names.includes(box.value); });
    all("[name=severity]").forEach((radio) => { radio.checked = radio.value === remembered.level; });
    remembered = null;
  } else if (!field.checked) {
    remembered = {
      names: boxes.filter((box) => box.checked).map((box) => box.value),
      level: one("[name=severity]:checked")?.value,
    };
    boxes.forEach((box) => { box.checked = false; });
    field.checked = true;
  }
  after(field);
}

function after(field) {
  if (field.name === "category") {
    const none = one("[name=severity][value='0']");
    if (field.checked && none.checked) none.checked = false;
    guide(field);
    const on = all("[name=category]:checked").length;
    say(`${field.dataset.name} ${field.checked ? "on" : "off"}, ${on} of 19`);
  } else if (field.type === "radio") {
    say(field.closest("label").querySelector("span").textContent);
  }
  fault("");
  verdict();
  touch();
}

function guide(field) {
  const text = document.getElementById(`g-${field.value}`).textContent;
  const panel = one("#guide");
  panel.textContent = "";
  const name = document.createElement("strong");
  name.textContent = `${field.dataset.name}. `;
  panel.append(name, text);
}

// --- drafts, lease, cover -------------------------------------------------------------------------------------------

const body = () => new URLSearchParams(new FormData(form));

function touch() {
  changed = true;
  clearTimeout(timer);
  timer = setTimeout(save, AGAIN_MS);
}

async function save(more = {}) {
  if (!changed || over || sending) return;
  clearTimeout(timer);
  changed = false;
  const at = lease;
  const fields = body();
  const { status, body: told } = await send(path("draft"), fields, more);
  if (at !== lease || status === 200) return;
  sessionStorage.setItem(key(), fields.toString());
  trouble(status, told);
  if (status === 0 || status >= 500 || status === 429) timer = setTimeout(() => { changed = true; save(); }, 5000);
}

function trouble(status, told) {
  if (status === 409 || status === 404) over = true;
  const end = over ? " Press Enter for the next one." : "";
  fault((told.error || "The server cannot be reached; your answer is kept in this window and sent again.") + end);
}

function restore() {
  const kept = sessionStorage.getItem(key());
  sessionStorage.removeItem(key());
  if (!kept) return;
  const fields = new URLSearchParams(kept);
  all("[type=checkbox], [type=radio]").forEach((field) => { field.checked = fields.getAll(field.name).includes(field.value); });
  one("#reason").value = fields.get("reason") || "";
  touch();
}

async function renew() {
  if (over || (document.hidden && Date.now() - moved > Number(form.dataset.renew) * 2000)) return;
  const { status, body: told } = await send(path("renew"), next ? { besides: next.lease } : {});
  if (status === 409 || status === 401) trouble(status, told);
}

function cover(on) {
  one("#cover").hidden = !on;
  one("#texts").hidden = on;
  if (on) return;
  if (!opened) send(path("opened"), {});
  opened = true;
}

// --- going on -------------------------------------------------------------------------------------------------------

async function ahead() {
  const at = lease;
  try {
    const answer = await fetch(`/ahead/${stage}?besides=${encodeURIComponent(at)}`);
    if (answer.status !== 200 || at !== lease) return;
    next = { lease: answer.headers.get("x-lease"), html: await answer.text() };
  } catch {
    next = null;
  }
}

function show() {
  const parsed = new DOMParser().parseFromString(next.html, "text/html");
  main.replaceChildren(...parsed.body.childNodes);
  history.replaceState(null, "", `/task/${next.lease}`);
  next = null;
  begin();
  scrollTo(0, 0);
  focusOn(main);
  say("Next item");
}

async function submit() {
  if (over) return location.assign(`/next/${stage}`);
  if (sending) return;
  if (!opened) return fault("The text is still covered. Show it with v first, or skip it with x.");
  if (!verdict()) return fault(one("#verdict").textContent);
  sending = true;
  clearTimeout(timer);
  form.elements.spent.value = String(spentBefore + Math.round(performance.now() - since));
  const fields = body();
  const { status, body: told } = await send(path("submit"), fields);
  sending = false;
  if (status !== 200) {
    if (status !== 422) sessionStorage.setItem(key(), fields.toString());
    changed = true;
    trouble(status, told);
    if (told.need === "reason") one("#reason").focus();
    return;
  }
  sessionStorage.removeItem(key());
  const last = JSON.parse(sessionStorage.getItem("answers") || "[]");
  sessionStorage.setItem("answers", JSON.stringify([...last, told.stored].slice(-20)));
  if (told.go || !next) return location.assign(told.go || `/next/${stage}`);
  show();
  const severe = told.severe ? `, ${told.severe} severe` : "";
  one("#exposure").textContent = `${told.items} read today${severe}`;
}

async function undo() {
  const last = JSON.parse(sessionStorage.getItem("answers") || "[]");
  const answer = last.pop();
  if (!answer) return fault("There is nothing to take back in this window.");
  await save();
  const { status, body: told } = await send("/undo", { answer });
  if (status === 0 || status >= 500) return trouble(status, told);
  sessionStorage.setItem("answers", JSON.stringify(last));
  if (told.go) location.assign(told.go);
  else fault(told.error);
}

async function skip() {
  sending = true;
  clearTimeout(timer);
  const { status, body: told } = await send(path("skip"), {});
  sending = false;
  if (status !== 200) return trouble(status, told);
  if (next) show();
  else location.assign(told.go);
}

async function more(button) {
  button.disabled = true;
  const answer = await fetch(`${button.dataset.more}?at=${button.dataset.at}`);
  if (answer.status !== 200) return;
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  const box = button.closest(".text");
  box.querySelector("bdi").append(...parsed.body.childNodes);
  button.closest("p").remove();
  box.focus();
}

// --- wiring ---------------------------------------------------------------------------------------------------------

const KEYS = {
  u: undo,
  x: skip,
  v: () => cover(one("#cover").hidden),
  t: () => one("#reason").focus(),
  "?": () => { const keys = document.getElementById("keys"); if (keys.open) keys.close(); else keys.showModal(); },
};

onKey((pressed, event) => {
  if (veiled() || pressed === "z") return;
  moved = Date.now();
  if (pressed === "Enter") {
    if (event.target.closest("button, a, summary, dialog")) return;
    event.preventDefault();
    submit();
    return;
  }
  const field = form.querySelector(`[data-key="${CSS.escape(pressed)}"]`);
  if (!field && !KEYS[pressed]) return;
  event.preventDefault();
  if (field) pick(field);
  else KEYS[pressed]();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || veiled()) return;
  if (document.activeElement?.id === "reason") focusOn(main);
});
document.addEventListener("visibilitychange", () => { if (document.hidden) save({ keepalive: true }); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
addEventListener("pointermove", () => { moved = Date.now(); }, { passive: true });

function begin() {
  form = document.getElementById("task");
  lease = form.dataset.lease;
  stage = form.dataset.stage;
  [opened, over, sending, changed, remembered] = [false, false, false, false, null];
  [since, spentBefore, moved] = [performance.now(), 0, Date.now()];
  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  one("#reason").addEventListener("input", touch);
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-more]");
    if (button) more(button);
  });
  form.addEventListener("change", (event) => {
    const field = event.target;
    if (!field.dataset.key) return;
    if (field.name === "severity" && field.value === "0") all("[name=category]").forEach((box) => { box.checked = false; });
    after(field);
  });
  form.addEventListener("focusin", (event) => { if (event.target.name === "category") guide(event.target); });
  form.addEventListener("pointerover", (event) => {
    const box = event.target.closest(".category")?.querySelector("input");
    if (box) guide(box);
  });
  one("#undo").addEventListener("click", undo);
  one("#skip").addEventListener("click", (event) => { event.preventDefault(); skip(); });
  one("#help").addEventListener("click", KEYS["?"]);
  one("#uncover").addEventListener("click", () => { cover(false); focusOn(main); });
  document.getElementById("keys").addEventListener("close", () => focusOn(main));
  cover(form.dataset.covered === "yes");
  restore();
  verdict();
  setTimeout(ahead, 150);
}

setInterval(() => renew(), 1000 * Number(document.getElementById("task").dataset.renew));
begin();
