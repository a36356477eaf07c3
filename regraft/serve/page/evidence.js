// The heat map of the evidence, over the picture, on request.

import { request } from "./api.js";
import { layOver } from "./picture.js";
import { make, plain } from "./words.js";

const OPACITY = 75;
const MOST_CLASSES = 300; // that a list is still good for

// A button and what it opens, for one card.
export function evidence(frame, file, predictions, model, signal) {
  const layer = make("canvas", { class: "layer", "aria-hidden": "true", hidden: true });
  frame.append(layer);
  const select = make("select", { onchange: () => show() }, choices(predictions, model));
  const range = slider(OPACITY, (share) => (layer.style.opacity = share));
  const words = make("p", { role: "status" });
  const scale = [make("div", { class: "scale", "aria-hidden": "true" }), make("div", { class: "ends", "aria-hidden": "true" }, make("span", {}, "no evidence"), make("span", {}, "most"))];
  const tools = make("div", { class: "tools", hidden: true }, make("label", {}, "Class", select), make("label", {}, "Opacity", range), make("div", {}, scale), words);
  const button = make("button", { class: "button small", type: "button", "aria-pressed": "false", onclick: () => toggle() }, "Show the evidence");
  const known = new Map();

  function toggle() {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Hide the evidence" : "Show the evidence";
    tools.hidden = !on;
    light(false);
    if (on) show();
  }

  function light(on) {
    layer.hidden = !on;
    frame.classList.toggle("lit", on);
  }

  async function show() {
    const name = predictions[0] && select.value;
    words.className = "wait";
    words.textContent = "Looking for what speaks for it";
    try {
      if (!known.has(name)) known.set(name, await heat(file, name, signal));
      if (name !== select.value || tools.hidden) return;
      await layOver(layer, known.get(name));
      light(true);
      words.className = "note";
      words.textContent = `What speaks for “${plain(name)}”. Each map is scaled to its own strongest place. What the model did not look at is dark.`;
    } catch (error) {
      if (name !== select.value || error.name === "AbortError") return;
      light(false);
      words.className = "problem";
      words.textContent = error.message;
    }
  }

  return [make("div", { class: "act" }, button), tools];
}

async function heat(file, name, signal) {
  const response = await request(`/explain?class=${encodeURIComponent(name)}`, { body: file, signal });
  return response.blob();
}

// The classes of the answer first; where there are not too many, the others too.
function choices(predictions, model) {
  const named = predictions.map((one) => one.class);
  const option = (name) => make("option", { value: name }, plain(name));
  const others = (model?.classes ?? []).filter((name) => !named.includes(name));
  if (!others.length || others.length > MOST_CLASSES) return named.map(option);
  return [...named.map(option), make("optgroup", { label: "Other classes" }, others.map(option))];
}

export function slider(start, change) {
  const range = make("input", { type: "range", min: "0", max: "100", value: String(start), oninput: () => change(range.value / 100) });
  change(start / 100);
  return range;
}
