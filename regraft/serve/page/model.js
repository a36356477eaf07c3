// Which model this is, on top of the page.

import { counted, make, megabytes, percent, plain, span } from "./words.js";

const MOST_NAMES = 1000;
const at = (id) => document.getElementById(id);

const TITLES = {
  classification: (model) => `${model.multi_label ? "Labels images with any of" : "Sorts images into"} ${counted(model.classes.length, "class", "classes")}`,
  saliency: () => "Finds the object in images",
  semantic: (model) => `Sorts every pixel of an image into ${counted(model.classes.length, "class", "classes")}`,
};

export function showModel(model) {
  const title = TITLES[model.task]?.(model) ?? "Try the model";
  document.title = title;
  at("title").textContent = title;
  at("about").textContent = about(model);
  showAccuracy(model);
  if (model.task !== "saliency") showClasses(model.classes);
  const most = model.limits?.bytes;
  if (most) at("limits").textContent = `JPEG, PNG, WebP, BMP, GIF or TIFF, up to ${megabytes(most)} each, several at once. They are sent to this server, which does not keep them.`;
}

function about(model) {
  const parts = [plain(model.backbone), model.strategy ? `strategy ${plain(model.strategy)}` : "pretrained, as it is"];
  if (model.abstains) parts.push("says “none of these” when in doubt");
  return parts.join(" · ");
}

function showAccuracy({ accuracy, iou, multi_label: several }) {
  const score = iou ?? accuracy;
  if (!score) return;
  const what = iou ? "mean IoU on" : several ? "of images with every label right, on" : "right on";
  at("value").textContent = percent(score.value);
  at("interval").replaceChildren(`${what} ${counted(score.n, "image")}`, make("br"), `95\u00a0% interval ${span(score)}`);
  at("score").hidden = false;
}

function showClasses(names) {
  at("known-title").textContent = `The ${counted(names.length, "class", "classes")}`;
  const shown = names.slice(0, MOST_NAMES).map((name) => make("li", { dir: "auto" }, plain(name)));
  if (names.length > MOST_NAMES) shown.push(make("li", {}, `and ${(names.length - MOST_NAMES).toLocaleString("en")} more`));
  at("classes").replaceChildren(...shown);
  at("known").hidden = false;
}
