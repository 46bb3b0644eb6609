// The fields of a policy's inputs: the observation in front, the rest of the time step folded away.

import { build, h } from "../draw/dom.js";
import { controlFor, numberIn } from "./controls.js";
import { childrenOf, isLeaf, pack } from "./nest.js";

// What a time step has beside the observation; the state is asking.js's.
const BESIDE = new Set(["step_type", "reward", "discount", "policy_state"]);
const STEP_TYPES = ["FIRST", "MID", "LAST"];

/** {node, read(), set(kind)} for a nest, in frames like the nest's own. */
export function nestControl(nest, name) {
  const controls = new Map();
  const node = nodeOf(nest, name, "", controls);
  return {
    node,
    read: () => pack(nest, (_, path) => controls.get(path).read()),
    set: (kind) => controls.forEach((control) => control.set(kind)),
  };
}

function nodeOf(nest, label, path, controls) {
  if (isLeaf(nest)) {
    const control = controlFor(nest, label);
    controls.set(path, control);
    return control.node;
  }
  const node = build(h("fieldset", { class: "nest" }, h("legend", {}, label)));
  for (const [key, child] of childrenOf(nest)) node.append(nodeOf(child, nest.list ? `${label}[${key}]` : key, path ? `${path}/${key}` : key, controls));
  return node;
}

/** The fields of a request by their names there, as app/inputs/names.py has them. */
function topLevel(inputs) {
  const named = isLeaf(inputs) ? [[inputs.name, inputs]] : childrenOf(inputs);
  return named.map(([name, nest]) => [name === "options" ? "0/options" : name, nest]);
}

/** What is asked about: {node, read(), set(kind)}; `read` gives the members of a request's body. */
export function inputFields(inputs) {
  const members = topLevel(inputs);
  // An export with an input_fn has fields of its own, which may be called anything.
  const beside = members.some(([name]) => name === "step_type") ? BESIDE : new Set();
  const main = members.filter(([name]) => !beside.has(name)).map(([name, nest]) => [name, nestControl(nest, name)]);
  const folded = members.filter(([name]) => beside.has(name) && name !== "policy_state").map(([name, nest]) => [name, optional(name, nest)]);
  const node = build(h("div", { class: "fields" }));
  node.append(...main.map(([, control]) => control.node));
  if (folded.length) {
    const details = build(h("details", { class: "more" }, h("summary", {}, "Step type, reward, discount")));
    details.append(...folded.map(([, control]) => control.node));
    node.append(details);
  }
  return {
    node,
    read: () => Object.fromEntries([...main, ...folded].map(([name, control]) => [name, control.read()]).filter(([, value]) => value !== undefined)),
    set: (kind) => main.forEach(([, control]) => control.set(kind)),
  };
}

/** A field of the time step, which may be left out: the server fills it in. */
function optional(name, nest) {
  if (!isLeaf(nest) || nest.shape.length) {
    const control = nestControl(nest, name);
    const use = build(h("input", { type: "checkbox", "aria-label": `send ${name}` }));
    const node = build(h("div", { class: "optional" }));
    node.append(use, control.node);
    return { node, read: () => (use.checked ? control.read() : undefined) };
  }
  const id = `time-step-${name}`;
  const node = build(h("div", { class: "entry" }, h("label", { for: id }, name)));
  if (name === "step_type") {
    const select = build(h("select", { id }, h("option", { value: "" }, "the server's default"), STEP_TYPES.map((word, index) => h("option", { value: index }, word))));
    node.append(select);
    return { node, read: () => (select.value === "" ? undefined : Number(select.value)) };
  }
  const input = build(h("input", { id, type: "number", step: "any", placeholder: name === "reward" ? "0" : "1" }));
  node.append(input);
  return { node, read: () => (input.value === "" ? undefined : numberIn(input, name, false)) };
}
