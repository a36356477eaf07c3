// Images on canvases: upright, the first frame, and no larger than they are shown.

import { request } from "./api.js";

const SIDE = 1200; // pixels of the longer side
const TALLEST = 420;
const SHORTEST = 220;
const THINNEST = 28;

// Draws the file, and gives its size in pixels; null where this browser cannot show it.
export async function draw(canvas, file) {
  try {
    return put(canvas, await createImageBitmap(file));
  } catch {
    return null;
  }
}

// The picture as the server reads it: for formats that browsers do not show, and where they turn it otherwise.
export async function drawFromServer(canvas, file, signal) {
  const response = await request("/picture", { body: file, signal });
  return put(canvas, await createImageBitmap(await response.blob()));
}

function put(canvas, bitmap) {
  const { width, height } = bitmap;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const pen = canvas.getContext("2d");
  // Transparent pixels are white to the model, too.
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { width, height };
}

// The frame that all layers share has the shape of the picture.
export function shape(frame, { width, height }) {
  frame.classList.toggle("small", Math.max(width, height) < SHORTEST);
  const tall = Math.min(TALLEST, Math.max(SHORTEST, height));
  const wide = Math.max(THINNEST, (tall * width) / height);
  frame.style.setProperty("--wide", `${wide}px`);
  frame.style.aspectRatio = `${wide} / ${Math.max(THINNEST, (wide * height) / width)}`;
}

export async function layOver(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

export function blobOf(base64, type) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) bytes[at] = letters.charCodeAt(at);
  return new Blob([bytes], { type });
}

// The class of every pixel that is shown, from the colours of a mask: { width, height, labels }.
export async function readMask(blob, colours) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * scale));
  const height = Math.max(1, Math.round(bitmap.height * scale));
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  // Colours of a mask stand for classes: between two there is none.
  pen.imageSmoothingEnabled = false;
  pen.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  const known = new Map(colours.map(([red, green, blue], number) => [(red << 16) | (green << 8) | blue, number]));
  const labels = new Int16Array(width * height);
  for (let at = 0; at < labels.length; at += 1) {
    labels[at] = known.get((data[4 * at] << 16) | (data[4 * at + 1] << 8) | data[4 * at + 2]) ?? -1;
  }
  return { width, height, labels };
}

// Paints areas on one canvas and their borders on another; `shown` says of a class whether it is.
export function paint(areas, borders, { width, height, labels }, colours, shown) {
  const images = [new ImageData(width, height), new ImageData(width, height)];
  const [fill, edge] = images.map((image) => new Uint32Array(image.data.buffer));
  // The bytes of a pixel are red, green, blue and opacity, in this order.
  const inks = colours.map((colour) => new Uint32Array(new Uint8Array([...colour, 255]).buffer)[0]);
  const thick = Math.max(1, Math.round(Math.max(width, height) / 400));
  const differs = (x, y, label) => x >= 0 && y >= 0 && x < width && y < height && labels[y * width + x] !== label;
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      const label = labels[at];
      if (label < 0 || !shown(label)) continue;
      fill[at] = inks[label];
      const beside = differs(x - thick, y, label) || differs(x + thick, y, label);
      if (beside || differs(x, y - thick, label) || differs(x, y + thick, label)) edge[at] = inks[label];
    }
  }
  [areas, borders].forEach((canvas, layer) => {
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(images[layer], 0, 0);
  });
}
