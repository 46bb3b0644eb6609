// What a leaf of a spec is filled in with. A control is {node, read(), set(kind)}: `read` gives the JSON value, or throws
// an error that people can read; `set` fills it with "zeros" or at "random".

import { build, h } from "../draw/dom.js";
import { value as written } from "../draw/format.js";
import { imageControl, looksLikeImage } from "./image.js";
import { boundsOf, isInteger, shaped, sizeOf } from "./nest.js";

const MOST_ENTRIES = 16;
const MOST_CHOICES = 6;
let made = 0;

export function controlFor(leaf, path) {
  const known = !leaf.shape.includes(null);
  if (leaf.dtype === "string") return known && !leaf.shape.length ? textControl(leaf, path) : jsonControl(leaf, path);
  if (known && looksLikeImage(leaf)) return imageControl(leaf, path);
  if (known && sizeOf(leaf.shape) <= MOST_ENTRIES) return numbersControl(leaf, path);
  return jsonControl(leaf, path);
}

/** A random value within the bounds of an entry. */
export function randomOf(leaf, index) {
  if (leaf.dtype === "bool") return Math.random() < 0.5;
  let [low, high] = boundsOf(leaf, index);
  if (!Number.isFinite(low)) low = leaf.dtype.startsWith("uint") ? 0 : Math.min(-1, high - 1);
  if (!Number.isFinite(high)) high = Math.max(low + 1, isInteger(leaf) ? low + 9 : 1);
  if (isInteger(leaf)) return low + Math.floor(Math.random() * (high - low + 1));
  return Number((low + Math.random() * (high - low)).toPrecision(4));
}

/** 0, or what is next to it within the bounds. */
export function zeroOf(leaf, index) {
  if (leaf.dtype === "bool") return false;
  const [low, high] = boundsOf(leaf, index);
  return Math.min(Math.max(0, low), high);
}

export function describe(leaf) {
  const shape = leaf.shape.length ? `[${leaf.shape.map((length) => length ?? "any").join(", ")}]` : "";
  return `${leaf.dtype}${shape}`;
}

function numbersControl(leaf, path) {
  const count = sizeOf(leaf.shape);
  const entries = Array.from({ length: count }, (_, index) => entryFor(leaf, index, path, placeOf(leaf.shape, index)));
  const node = build(
    h(
      leaf.shape.length ? "fieldset" : "div",
      { class: "leaf" },
      leaf.shape.length > 0 && h("legend", {}, path, " ", h("span", { class: "fact" }, describe(leaf))),
    ),
  );
  node.append(...entries.map((entry) => entry.node));
  return {
    node,
    read: () => shaped(entries.map((entry) => entry.read()), leaf.shape),
    set: (kind) => entries.forEach((entry, index) => entry.set(kind === "zeros" ? zeroOf(leaf, index) : randomOf(leaf, index))),
  };
}

/** "[1][2]" of an entry of a flat list; "" of a single number. */
function placeOf(shape, index) {
  if (!shape.length) return "";
  const part = sizeOf(shape.slice(1));
  return `[${Math.floor(index / part)}]${placeOf(shape.slice(1), index % part)}`;
}

/** `place`: which number of the leaf it is, where it has many; shown alone, for the frame around has the leaf's name. */
function entryFor(leaf, index, path, place) {
  const [low, high] = boundsOf(leaf, index);
  const names = { full: path + place, shown: place || path };
  if (leaf.dtype === "bool") return checkbox(names);
  if (isInteger(leaf) && high - low < MOST_CHOICES) return choices(names, low, high);
  return number(leaf, names, low, high, zeroOf(leaf, index));
}

function checkbox({ full, shown }) {
  const id = `field-${++made}`;
  const input = build(h("input", { type: "checkbox", id, "aria-label": full }));
  const node = build(h("div", { class: "entry" }, h("label", { for: id }, shown)));
  node.append(input);
  return { node, read: () => input.checked, set: (value) => (input.checked = value) };
}

function choices({ full, shown }, low, high) {
  const name = `field-${++made}`;
  const values = Array.from({ length: high - low + 1 }, (_, step) => low + step);
  const node = build(
    h(
      "div",
      { class: "entry", role: "radiogroup", "aria-label": full },
      h("span", { class: "entry-label", "aria-hidden": "true" }, shown),
      h("span", { class: "segments" }, values.map((value) => h("label", {}, h("input", { type: "radio", name, value, checked: value === zeroClamped(low, high) }), h("span", {}, value)))),
    ),
  );
  return {
    node,
    read: () => Number(node.querySelector("input:checked").value),
    set: (value) => (node.querySelector(`input[value="${value}"]`).checked = true),
  };
}

function zeroClamped(low, high) {
  return Math.min(Math.max(0, low), high);
}

/** A number, with a slider where it has bounds. */
function number(leaf, { full, shown }, low, high, start) {
  const id = `field-${++made}`;
  const whole = isInteger(leaf);
  const input = build(h("input", { type: "number", id, step: whole ? 1 : "any", value: String(start), required: true, "aria-label": full }));
  const node = build(h("div", { class: "entry" }, h("label", { for: id, title: describe(leaf) }, shown)));
  let slider = null;
  if (Number.isFinite(low) && Number.isFinite(high) && low < high) {
    const step = whole ? 1 : (high - low) / 200;
    slider = build(h("input", { type: "range", min: low, max: high, step, "aria-label": `${full}, slider` }));
    slider.value = String(start);
    slider.oninput = () => (input.value = whole ? slider.value : written(Number(slider.value)));
    input.oninput = () => (slider.value = input.value);
    const range = build(h("span", { class: "range" }, h("span", {}, written(low)), h("span", {}, written(high))));
    range.insertBefore(slider, range.lastChild);
    node.append(range);
  }
  node.append(input);
  return {
    node,
    read: () => numberIn(input, full, whole),
    set: (value) => {
      input.value = String(value);
      if (slider) slider.value = String(value);
    },
  };
}

export function numberIn(input, label, whole) {
  const found = input.value.trim() === "" ? NaN : Number(input.value);
  if (Number.isFinite(found) && (!whole || Number.isSafeInteger(found))) return found;
  input.focus();
  throw new Error(`${label}: ${whole ? "an integer" : "a number"} is needed`);
}

function textControl(leaf, path) {
  const id = `field-${++made}`;
  const input = build(h("input", { type: "text", id }));
  const node = build(h("div", { class: "entry" }, h("label", { for: id }, path)));
  node.append(input);
  return { node, read: () => input.value, set: (kind) => (input.value = kind === "zeros" ? "" : Math.random().toString(36).slice(2, 8)) };
}

/** For what has too many numbers for fields, or no fixed shape: JSON. */
function jsonControl(leaf, path) {
  const id = `field-${++made}`;
  const shape = leaf.shape.map((length) => length ?? 1);
  const flat = (one) => Array.from({ length: sizeOf(shape) }, (_, index) => one(leaf, index));
  const text = leaf.dtype === "string" ? () => "" : null;
  const area = build(h("textarea", { id, rows: 3, spellcheck: "false" }));
  const set = (kind) => (area.value = JSON.stringify(shaped(flat(text ?? (kind === "zeros" ? zeroOf : randomOf)), shape)));
  const node = build(h("div", { class: "leaf" }, h("label", { for: id }, path, " ", h("span", { class: "fact" }, `${describe(leaf)} as JSON`))));
  node.append(area);
  set("zeros");
  return {
    node,
    read: () => {
      try {
        return JSON.parse(area.value);
      } catch {
        area.focus();
        throw new Error(`${path}: this is no JSON`);
      }
    },
    set,
  };
}
