// Where every pixel has an answer: the mask over the picture, its colours, names and shares, and the mask to take away.

import { slider } from "./evidence.js";
import { blobOf, paint, readMask } from "./picture.js";
import { make, percent, plain } from "./words.js";

const OPACITY = 45;

// `elements` for the card, and what is to be `said` aloud.
export function legend(frame, name, answer) {
  const [areas, borders] = ["layer mask", "layer mask"].map((classes) => make("canvas", { class: classes, "aria-hidden": "true" }));
  frame.append(areas, borders);
  const blob = blobOf(answer.mask, "image/png");
  const mask = readMask(blob, answer.colours);
  const rows = answer.shares.map(({ class: title, share }, number) => ({ title, share, number, colour: answer.colours[number] }));
  let only = null;

  async function repaint() {
    const there = await mask;
    paint(areas, borders, there, answer.colours, (number) => (only === null ? !isBackground(rows, number) : number === only));
  }

  function choose(row, button) {
    only = only === row.number ? null : row.number;
    for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && only !== null));
    repaint();
  }

  const last = (row) => isBackground(rows, row.number);
  const shown = rows.filter((row) => row.share > 0).sort((one, other) => last(one) - last(other) || other.share - one.share);
  const list = make("ul", { class: "legend" }, shown.map((row) => make("li", { class: last(row) ? "behind" : "" }, line(row, choose))));
  const range = slider(OPACITY, (share) => {
    areas.style.opacity = share;
    borders.hidden = share === 0;
  });
  repaint();
  const hint = make("p", { class: "fact" }, "Choose a class to see it alone.");
  const tools = make("div", { class: "tools" }, make("label", {}, "Opacity", range));
  return { elements: [heading(shown), list, hint, tools, make("div", { class: "act" }, download(blob, name))], said: spoken(shown) };
}

// As predict's own overlays have it: a first class of this name stays as the picture shows it.
function isBackground(rows, number) {
  return number === 0 && rows[0].title.toLowerCase() === "background";
}

function heading(shown) {
  const things = shown.filter((row) => !isBackground([row], row.number));
  const title = things.length ? plain(things[0].title) : "Nothing but background";
  const much = things.length ? [make("span", { class: "much" }, percent(things[0].share)), make("span", { class: "of" }, "of the image")] : [];
  return make("p", { class: "best" }, make("bdi", {}, title), ...much);
}

function spoken(shown) {
  return shown.slice(0, 4).map((row) => `${plain(row.title)}, ${percent(row.share)}`).join("; ");
}

function line(row, choose) {
  const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
  const fill = make("i");
  swatch.style.background = fill.style.background = `rgb(${row.colour.join(" ")})`;
  fill.style.width = `${100 * row.share}%`;
  const parts = [make("bdi", {}, plain(row.title)), make("span", {}, percent(row.share)), make("span", { class: "track", "aria-hidden": "true" }, fill)];
  const button = make("button", { type: "button", "aria-pressed": "false", onclick: () => choose(row, button) }, swatch, parts);
  return button;
}

function download(blob, name) {
  const stem = name.split("/").at(-1).replace(/\.[^.]*$/u, "") || "image";
  const save = () => {
    const link = make("a", { download: `${stem}-mask.png`, href: URL.createObjectURL(blob) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };
  return make("button", { class: "button small", type: "button", onclick: save }, "Download the mask");
}
