// One image on the page: its picture, and what the server says of it.

import { request } from "./api.js";
import { evidence } from "./evidence.js";
import { legend } from "./legend.js";
import { draw, drawFromServer, shape } from "./picture.js";
import { make, megabytes, percent, plain, reasons, sentence } from "./words.js";

const TOP = 5;
const MOST_LABELS = 20; // where an image may have several: all that are likely are shown
let cards = 0;

export class Card {
  #stop = new AbortController();
  state = "waiting"; // then "asking"; "answered", "failed" or "removed"

  constructor(file, name, model, remove) {
    this.file = file;
    this.name = name;
    this.model = model;
    const id = `card-${(cards += 1)}`;
    this.picture = make("canvas", { class: "picture", role: "img", "aria-label": plain(name) });
    this.frame = make("div", { class: "frame" }, this.picture);
    this.stage = make("div", { class: "stage", hidden: true }, this.frame);
    this.size = make("span", { class: "size" });
    this.answer = make("div", { class: "answer" }, make("p", { class: "wait" }, "Waiting for its turn"));
    this.close = make("button", { class: "remove", type: "button", "aria-label": `Remove ${plain(name)}`, onclick: () => remove(this) }, "×");
    const title = make("h3", { id, title: plain(name), dir: "auto" }, plain(name));
    const head = make("div", { class: "head" }, title, this.size, this.close);
    this.element = make("li", { class: "card" }, make("article", { "aria-labelledby": id }, head, make("div", { class: "inside" }, this.stage, this.answer)));
  }

  remove() {
    this.state = "removed";
    this.#stop.abort();
    this.element.remove();
  }

  // Asks for the answer and shows it, or why there is none. Gives what is to be said aloud.
  async run() {
    if (this.state === "removed") return "";
    this.state = "asking";
    try {
      return await this.#ask();
    } catch (error) {
      if (this.state === "removed" || error.name === "AbortError") return "";
      const hint = error.code === "not_an_image" && /\.(heic|heif|avif)$/i.test(this.name) ? " Save the photo as JPEG and try again." : "";
      return this.fail(`${error.message}${hint}`);
    }
  }

  async #ask() {
    const most = this.model?.limits?.bytes;
    if (most && this.file.size > most) {
      return this.fail(`The file has ${megabytes(this.file.size)}, and this server takes at most ${megabytes(most)}. Save it smaller and try again.`);
    }
    this.#wait("Reading the picture");
    this.#sized(await draw(this.picture, this.file));
    this.#wait("Asking the model");
    const busy = () => this.#wait("The server is busy; waiting for a place");
    const response = await request(`/predict?top_k=${this.model?.multi_label ? MOST_LABELS : TOP}`, { body: this.file, signal: this.#stop.signal, busy });
    const answer = await response.json();
    if (answer.status !== "ok") return this.fail(answer.reason ?? answer.error?.message ?? "it could not be used");
    await this.#asServed(answer);
    if (this.state === "removed") return "";
    this.state = "answered";
    return answer.mask ? this.#pixels(answer) : this.#classes(answer);
  }

  #wait(text) {
    this.answer.replaceChildren(make("p", { class: "wait" }, text));
  }

  #sized(size) {
    this.drawn = size;
    this.stage.hidden = !size;
    this.size.textContent = size ? `${size.width} × ${size.height}` : "";
    if (size) shape(this.frame, size);
  }

  // Where this browser shows no picture, or one of another shape, that of the server.
  async #asServed({ width, height }) {
    const same = this.drawn && (!width || (this.drawn.width === width && this.drawn.height === height));
    if (same) return;
    const shown = await drawFromServer(this.picture, this.file, this.#stop.signal);
    this.#sized(shown);
    if (width) this.size.textContent = `${width} × ${height}`;
  }

  fail(message) {
    this.state = "failed";
    this.element.classList.add("failed");
    const said = sentence(message);
    this.answer.replaceChildren(make("p", { class: "best" }, "No answer for this one"), make("p", { class: "why" }, said));
    return `${plain(this.name)}: no answer. ${said}`;
  }

  #classes(answer) {
    const shown = answer.predictions.filter((one, rank) => rank < TOP || one.probability > 0.5);
    const [title, said] = answer.abstained ? withheld(answer) : this.model?.multi_label ? labels(answer) : single(shown[0]);
    this.element.classList.toggle("withheld", answer.abstained);
    this.answer.replaceChildren(
      title,
      ...(answer.abstained ? [make("p", { class: "why" }, reasons(answer.why)), make("p", { class: "lesser" }, "What comes closest, not to be relied on:")] : []),
      bars(shown),
      ...(answer.distance === null || answer.distance === undefined ? [] : [distance(answer.distance)]),
      ...evidence(this.frame, this.file, shown, this.model, this.#stop.signal),
    );
    return `${plain(this.name)}: ${said}`;
  }

  #pixels(answer) {
    const parts = legend(this.frame, this.name, answer);
    this.answer.replaceChildren(...parts.elements);
    return `${plain(this.name)}: ${parts.said}`;
  }
}

function single({ class: name, probability }) {
  const much = make("span", { class: "much" }, percent(probability));
  return [make("p", { class: "best" }, make("bdi", {}, plain(name)), much), `${plain(name)}, ${percent(probability)}`];
}

function labels({ predictions }) {
  const likely = predictions.filter((one) => one.probability > 0.5).map((one) => plain(one.class));
  const said = likely.join(", ") || "No label is likely";
  return [make("p", { class: "best" }, make("bdi", {}, said)), said];
}

function withheld(answer) {
  return [make("p", { class: "best" }, "None of these"), `none of these. ${reasons(answer.why)}`];
}

function bars(predictions) {
  const rows = predictions.map(({ class: name, probability }, rank) => {
    const fill = make("i");
    fill.style.width = `${100 * (probability ?? 0)}%`;
    const row = [make("bdi", {}, plain(name)), make("span", {}, percent(probability)), make("span", { class: "track", "aria-hidden": "true" }, fill)];
    return make("li", { class: rank ? "lower" : "" }, ...row);
  });
  return make("ol", { class: "bars" }, rows);
}

function distance(value) {
  const text = `Distance from the images it learned from: ${value.toFixed(2)}, where 1 is usual for new images.`;
  return make("p", { class: "fact" }, text);
}
