/** The notes panel: lists, adds and deletes through its handler (`src/app.py`). */
"use strict";

const $ = (id) => document.getElementById(id);
let customer = "general";
let mayDelete = false;

/** Calls the handler; an answer that is not 2xx becomes an Error with the handler's own words. */
async function call(method, path, body) {
  const query = `?customer=${encodeURIComponent(customer)}`;
  const response = await runner.fetch(`${path}${query}`, { method, body });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || answer.detail || `Error ${response.status}`);
  return answer;
}

function say(text, isError = false) {
  $("message").textContent = text;
  $("message").classList.toggle("error", isError);
}

/** Runs a change, then shows what is stored now. */
async function change(work, done) {
  try {
    await work();
    await show();
    say(done);
  } catch (error) {
    say(error.message, true);
  }
}

function ago(seconds) {
  const minutes = Math.max(0, Math.round((Date.now() / 1000 - seconds) / 60));
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  return new Date(seconds * 1000).toLocaleDateString(undefined, { dateStyle: "medium" });
}

function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  return words.slice(0, 2).map((word) => word[0].toUpperCase()).join("");
}

function noteItem(note) {
  const item = $("note").content.cloneNode(true).firstElementChild;
  const part = (selector) => item.querySelector(selector);
  part(".text").textContent = note.text;
  part(".author").textContent = note.author;
  part(".avatar").textContent = initials(note.author);
  part("time").textContent = ago(note.at);
  part("time").dateTime = new Date(note.at * 1000).toISOString();
  part(".delete").hidden = !mayDelete;
  part(".delete").setAttribute("aria-label", `Delete the note “${note.text.slice(0, 40)}”`);
  part(".delete").addEventListener("click", () => remove(note.id));
  return item;
}

async function show() {
  const state = await call("GET", "/notes");
  mayDelete = state.user.may_delete;
  $("greeting").textContent = `${state.greeting}, ${state.user.name.split(" ")[0]}.`;
  $("user").textContent = state.user.role ? `${state.user.name} · ${state.user.role}` : state.user.name;
  $("count").textContent = state.count;
  $("count").setAttribute("aria-label", `${state.count} stored`);
  $("user").hidden = $("count").hidden = false;
  $("empty").hidden = state.count > 0;
  $("notes").replaceChildren(...state.notes.map(noteItem));
}

function typed() {
  const length = $("text").value.trim().length;
  $("add").disabled = length === 0;
  $("left").textContent = length > 400 ? `${500 - length} characters left` : "";
}

function add() {
  const text = $("text").value.trim();
  if (!text) return;
  $("add").disabled = true;
  change(async () => {
    await call("POST", "/notes", { text });
    $("text").value = "";
    $("text").focus();
  }, "Note added.").finally(typed);
}

function remove(id) {
  change(() => call("DELETE", `/notes/${id}`), "Note deleted.").then(() => $("text").focus());
}

async function start() {
  const { path } = await runner.ready;
  customer = path.split("/").filter(Boolean).pop() || "general";
  await show();
}

// Forms are not submitted in a sandbox without allow-forms: a button and a key do it.
$("add").addEventListener("click", add);
$("text").addEventListener("input", typed);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) add();
});

start()
  .catch((error) => say(error.message, true))
  .finally(() => document.querySelector("main").setAttribute("aria-busy", "false"));
