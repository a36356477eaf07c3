// The page: images come in, each gets a card, and a few at a time are asked about.

import { onTokenWanted, request } from "./api.js";
import { Card } from "./card.js";
import { dropped, pasted } from "./incoming.js";
import { showModel } from "./model.js";
import { askForToken } from "./token.js";
import { counted } from "./words.js";

const AT_ONCE = 4; // a browser opens six connections; some are left for heat maps
const MOST = 200; // cards: more are a task for `regraft predict`
const SPEAK_AFTER = 400; // ms, so that several answers become one message

const at = (id) => document.getElementById(id);
const cards = [];
const queue = [];
const news = [];
let running = 0;
let model = null;
let timer = 0;

function add(incoming) {
  at("notice").hidden = true;
  const room = Math.max(0, MOST - cards.length);
  const fresh = incoming.slice(0, room).map(({ file, name }) => new Card(file, name, model, remove));
  if (incoming.length > room) say(`Only ${MOST} images are shown at a time; ${counted(incoming.length - room, "image")} left out. For more there is regraft predict.`, true);
  if (!fresh.length) return;
  cards.unshift(...fresh);
  at("cards").prepend(...fresh.map((card) => card.element));
  queue.push(...fresh);
  document.documentElement.classList.add("used");
  pump();
}

function pump() {
  while (running < AT_ONCE && queue.length) {
    const card = queue.shift();
    if (card.state === "removed") continue;
    running += 1;
    card.run().then((told) => {
      running -= 1;
      say(told);
      pump();
    });
  }
  tell();
}

function remove(card) {
  const place = cards.indexOf(card);
  cards.splice(place, 1);
  card.remove();
  (cards[Math.min(place, cards.length - 1)]?.close ?? at("choose")).focus();
  tell();
}

function clear() {
  queue.length = 0;
  for (const card of cards.splice(0)) card.remove();
  at("choose").focus();
  tell();
}

function tell() {
  at("results").hidden = cards.length === 0;
  const done = cards.filter((card) => card.state === "answered").length;
  const failed = cards.filter((card) => card.state === "failed").length;
  const open = cards.length - done - failed;
  const parts = [open ? `${done + failed} of ${counted(cards.length, "image")} done` : counted(cards.length, "image")];
  if (failed) parts.push(`${failed} without an answer`);
  at("progress").textContent = parts.join(" · ");
}

// For those who hear the page; with `shown` also for those who see it.
function say(text, shown = false) {
  if (!text) return;
  news.push(text);
  if (shown) {
    at("notice").textContent = text;
    at("notice").hidden = false;
  }
  clearTimeout(timer);
  timer = setTimeout(() => {
    const told = news.splice(0);
    at("said").textContent = told.length > 3 ? `${counted(told.length, "image")} done. ${told.at(-1)}` : told.join(" ");
  }, SPEAK_AFTER);
}

function listen() {
  for (const id of ["choose", "photo"]) {
    at(id).addEventListener("change", (event) => {
      add([...event.target.files].map((file) => ({ file, name: file.name })));
      // The same file may be chosen again.
      event.target.value = "";
    });
  }
  at("clear").addEventListener("click", clear);
  document.addEventListener("paste", (event) => {
    const images = pasted(event.clipboardData);
    if (!images.length) return;
    event.preventDefault();
    add(images);
  });
  listenForDrops();
}

function listenForDrops() {
  const carriesFiles = (event) => [...event.dataTransfer.types].includes("Files");
  const mark = (on) => document.documentElement.classList.toggle("over", on);
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  document.addEventListener("drop", async (event) => {
    mark(false);
    if (!carriesFiles(event)) return;
    event.preventDefault();
    const images = await dropped(event.dataTransfer, MOST - cards.length + 1);
    if (images.length) add(images);
    else say("There was no file in what was dropped.", true);
  });
}

async function start() {
  onTokenWanted(askForToken);
  listen();
  try {
    model = await (await request("/model")).json();
    for (const card of cards) card.model = model;
    showModel(model);
  } catch (error) {
    at("about").textContent = error.message;
    at("about").className = "problem";
  }
}

start();
