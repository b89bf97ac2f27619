// Keys of adjudication and training, the same as on the task pages: a-s categories, 0-3 severity, 1-5 and 6-0 the steps of
// a pair, v shows a covered text, t goes to the note, x gives back for good, Enter sends. Besides: w goes through the
// reasons, a capital letter fills in that rater's answer. A key is the character that was typed, so that other layouts
// work; with Ctrl, Alt or Meta, and in text fields, the browser keeps it. Without this file the pages are plain forms.

const form = document.querySelector("form[data-answer]");
const says = form?.querySelector("[data-says]");
const note = form?.querySelector("[data-note]");
const began = Date.now();

const boxes = () => [...form.querySelectorAll("input[name=category]")];
const lines = () => [...form.querySelectorAll("[data-line]")];
const reasons = () => [...form.querySelectorAll("input[name=code]")];
const level = () => form.querySelector("input[name=severity]:checked");
const title = (fieldset) => fieldset.querySelector("legend").textContent.trim();
const words = (input) => input.parentElement.querySelector("span").textContent;

function fault() {
  if (boxes().length) {
    const named = boxes().some((box) => box.checked);
    const chosen = level();
    if (!chosen) return named ? "Choose a severity, 1 to 3." : "Choose 0 for no harm, or name categories and a severity.";
    if (chosen.value === "0" && named) return "Severity none has no category: take the categories back, or raise it.";
    if (chosen.value !== "0" && !named) return "Name a category for this severity, or choose 0.";
  }
  const open = lines().find((line) => !line.querySelector("input:checked"));
  if (open) return `${title(open)}: choose a step.`;
  if (reasons().length && !reasons().some((input) => input.checked)) return "Choose a reason with w.";
  return "";
}

function statement() {
  const reason = reasons().find((input) => input.checked);
  const why = reason ? ` Reason: ${words(reason)}.` : "";
  if (!boxes().length) {
    return lines().map((line) => {
      const chosen = line.querySelector("input:checked");
      return `${title(line)}: ${chosen ? words(chosen) : "not chosen"}.`;
    }).join(" ") + why;
  }
  const named = boxes().filter((box) => box.checked).map((box) => box.dataset.name);
  const chosen = level();
  if (chosen && chosen.value === "0" && !named.length) return `No harm.${why}`;
  return `Harmful: ${named.join(", ") || "no category yet"}; ${chosen ? chosen.dataset.level : "no severity yet"}.${why}`;
}

function tell(wrong) {
  says.textContent = wrong || statement();
  says.classList.toggle("fault", Boolean(wrong));
}

// "No harm" and a category exclude each other: what was chosen last stands.
function settle(input) {
  if (input.name === "severity" && input.value === "0" && input.checked) boxes().forEach((box) => { box.checked = false; });
  if (input.name === "category" && input.checked && level()?.value === "0") level().checked = false;
  tell("");
}

function adopt(button) {
  const told = JSON.parse(button.dataset.adopt);
  for (const input of form.querySelectorAll("input[type=radio], input[type=checkbox]")) {
    if (!(input.name in told)) continue;
    const value = told[input.name];
    input.checked = Array.isArray(value) ? value.includes(input.value) : value === input.value;
  }
  tell("");
}

function nextReason() {
  const all = reasons();
  const now = all.findIndex((input) => input.checked);
  const next = all[(now + 1) % all.length];
  next.checked = true;
  tell("");
}

function send(event) {
  const wrong = fault();
  if (wrong) {
    event.preventDefault();
    tell(wrong);
    return;
  }
  const took = form.querySelector("input[name=client_ms]");
  if (took) took.value = String(Date.now() - began);
  form.querySelectorAll("button").forEach((button) => { button.disabled = true; });
}

function typed(event) {
  const at = event.target;
  if (event.key === "Escape") at.blur();
  if (event.key === "Enter" && at === note && !event.shiftKey) {
    event.preventDefault();
    form.requestSubmit();
  }
}

// What a key does; nothing for a key that does nothing here.
function action(key) {
  const wanted = CSS.escape(key);
  const cover = document.querySelector("[data-cover]");
  if (key === "Enter") return () => form.requestSubmit();
  if (key === "v" && cover) return () => { cover.open = !cover.open; };
  if (key === "t" && note) return () => note.focus();
  if (key === "w" && reasons().length) return nextReason;
  if (key === "x" && document.querySelector("[data-skip]")) return () => document.querySelector("[data-skip]").click();
  const adopted = document.querySelector(`[data-adopt][data-letter="${wanted}"]`);
  if (adopted) return () => adopt(adopted);
  const input = form.querySelector(`input[data-key="${wanted}"]`);
  if (!input) return null;
  return () => {
    input.checked = input.type === "checkbox" ? !input.checked : true;
    settle(input);
  };
}

if (form) {
  form.addEventListener("change", (event) => settle(event.target));
  form.addEventListener("submit", send);
  for (const button of document.querySelectorAll("[data-adopt]")) {
    button.hidden = false;
    button.addEventListener("click", () => adopt(button));
  }
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return;
    if (document.querySelector("#veil:not([hidden]), dialog[open]")) return;
    const at = event.target;
    if (at.matches("textarea, input[type=text], input[type=search]")) {
      typed(event);
      return;
    }
    if (event.key === "Enter" && at.matches("a, button, summary")) return;
    if (event.key !== "Enter" && document.body.dataset.keys === "off") return;
    const act = action(event.key);
    if (act) {
      event.preventDefault();
      act();
    }
  });
  tell("");
}
