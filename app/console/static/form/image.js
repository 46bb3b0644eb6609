// An observation that is a picture: from a file, drawn into the shape of the spec, or noise. Shown as the policy gets it.

import { build, h } from "../draw/dom.js";
import { icon } from "../draw/icons.js";
import { boundsOf, isInteger, shaped } from "./nest.js";

const SMALLEST = 8;
let made = 0;

/** [height, width, channels] in the spec's order, channels last or first; or height and width alone. */
export function looksLikeImage(leaf) {
  const { shape, dtype } = leaf;
  if (dtype === "bool" || dtype === "string") return false;
  const sides = layoutOf(shape);
  return sides !== null && sides.height >= SMALLEST && sides.width >= SMALLEST;
}

function layoutOf(shape) {
  if (shape.length === 2) return { height: shape[0], width: shape[1], channels: 1, first: false };
  if (shape.length !== 3) return null;
  if (shape[2] <= 4) return { height: shape[0], width: shape[1], channels: shape[2], first: false };
  return shape[0] <= 4 ? { height: shape[1], width: shape[2], channels: shape[0], first: true } : null;
}

/** From black to white: the bounds of the spec, or what is usual for its dtype. */
function rangeOf(leaf) {
  const [low, high] = boundsOf(leaf, 0);
  const white = isInteger(leaf) ? (leaf.dtype === "int8" ? 127 : 255) : 1;
  return [Number.isFinite(low) ? low : 0, Number.isFinite(high) ? high : white];
}

export function imageControl(leaf, path) {
  const id = `image-${++made}`;
  const layout = layoutOf(leaf.shape);
  const canvas = build(
    h("canvas", { width: layout.width, height: layout.height, role: "img", "aria-label": `${path}, as the policy gets it` }),
  );
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const said = build(h("span", { class: "fact", role: "status" }));
  const file = build(h("input", { type: "file", accept: "image/*", id }));
  file.onchange = async () => {
    if (!file.files.length) return;
    try {
      const bitmap = await createImageBitmap(file.files[0]);
      context.drawImage(bitmap, 0, 0, layout.width, layout.height);
      said.textContent = `${bitmap.width} × ${bitmap.height}, drawn as ${layout.width} × ${layout.height}`;
    } catch {
      said.textContent = "This file is no picture that the browser can read.";
    }
  };
  const set = (kind) => {
    paint(context, layout, kind === "zeros" ? () => 0 : () => Math.floor(256 * Math.random()));
    file.value = "";
    said.textContent = kind === "zeros" ? "black" : "noise";
  };
  const node = build(
    h("fieldset", { class: "leaf image" }, h("legend", {}, path, " ", h("span", { class: "fact" }, `${leaf.dtype}[${leaf.shape.join(", ")}]`))),
  );
  const side = build(
    h(
      "div",
      { class: "image-side" },
      h("label", { for: id }, "From a file"),
      h("button", { type: "button", class: "small", onclick: () => set("random") }, icon("dice"), "Noise"),
      layout.channels !== 1 && layout.channels !== 3 && h("span", { class: "fact" }, `Each of the ${layout.channels} channels gets the same grey picture.`),
    ),
  );
  side.firstChild.after(file);
  side.append(said);
  node.append(canvas, side);
  set("random");
  return { node, read: () => numbersOf(context, leaf, layout), set };
}

function paint(context, { width, height, channels }, draw) {
  const pixels = context.createImageData(width, height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const grey = draw();
    for (let channel = 0; channel < 3; channel += 1) pixels.data[at + channel] = channels === 3 && channel ? draw() : grey;
    pixels.data[at + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

/** The picture as nested lists of the leaf's shape. */
function numbersOf(context, leaf, { width, height, channels, first }) {
  const pixels = context.getImageData(0, 0, width, height).data;
  const [low, high] = rangeOf(leaf);
  const scaled = (byte) => (isInteger(leaf) ? Math.round(low + (byte / 255) * (high - low)) : Number((low + (byte / 255) * (high - low)).toPrecision(6)));
  const at = (pixel, channel) => {
    const [red, green, blue] = pixels.subarray(4 * pixel, 4 * pixel + 3);
    return scaled(channels === 3 ? [red, green, blue][channel] : Math.round(0.299 * red + 0.587 * green + 0.114 * blue));
  };
  const size = width * height;
  const flat = Array.from({ length: size * channels }, (_, index) =>
    first ? at(index % size, Math.floor(index / size)) : at(Math.floor(index / channels), index % channels),
  );
  return shaped(flat, leaf.shape);
}
