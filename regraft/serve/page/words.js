// How numbers and names are written: as in the report (report/text.py).

const NBSP = "\u00a0";

// 0.9237 as "92.4 %". Never rounds a share short of 1 up to 100 %, nor one above 0 down to 0 %.
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  let shown = Math.round(share * 1000) / 10;
  if (shown >= 100 && share < 1) shown = 99.9;
  if (shown === 0 && share > 0) return `under${NBSP}0.1${NBSP}%`;
  return `${shown.toFixed(1)}${NBSP}%`;
}

export function span({ low, high }) {
  return `${(low * 100).toFixed(1)} to ${(high * 100).toFixed(1)}${NBSP}%`;
}

export function counted(n, noun, plural = `${noun}s`) {
  return `${n.toLocaleString("en")}${NBSP}${n === 1 ? noun : plural}`;
}

export function megabytes(bytes) {
  const mega = bytes / 2 ** 20;
  return `${mega >= 10 ? Math.round(mega) : mega.toFixed(1)}${NBSP}MB`;
}

// A name with what cannot be seen (controls, direction marks, lone surrogates) as escapes, so that it cannot deceive.
export function plain(text) {
  return String(text).replace(/(?![\u200c\u200d])[\p{C}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}

export function sentence(text) {
  const trimmed = plain(text).trim();
  const begun = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/u.test(begun) ? begun : `${begun}.`;
}

const REASONS = {
  "not sure enough": "The model is not sure enough to settle on one of its classes.",
  "unlike the images it was fitted on": "The image is unlike those that the model was fitted on.",
};

export function reasons(why) {
  return [why ?? []].flat().map((one) => REASONS[one] ?? sentence(one)).join(" ");
}

// An element with attributes and children; text stays text, whatever it holds.
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}
