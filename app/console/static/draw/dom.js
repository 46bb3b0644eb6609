// Describes elements as plain objects, and brings what is on the page to what is described: only what differs is touched,
// so that focus, selection and open details stay while numbers change.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "title", "polyline", "polygon"]);
// Whose value is what somebody has typed or chosen; of others it is an attribute.
const HAS_TEXT = new Set(["input", "select", "textarea"]);
const CHOICES = new Set(["radio", "checkbox"]);
const described = new WeakMap();

/** An element. Props are attributes, `on…` handlers, `key`, and `own`: a function that makes a node that is left alone. */
export function h(tag, props, ...children) {
  const kept = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  return { tag, props: props ?? {}, children: kept, key: props?.key };
}

/** A part of the page that keeps itself: `make` is called once for each key, and gives its node. */
export function own(key, make) {
  return { tag: null, props: {}, children: [], key, make };
}

/** Makes one node of a description. */
export function build(description) {
  const holder = document.createElement("div");
  fill(holder, [description]);
  return holder.firstChild;
}

/** Makes the children of a node those that are described. */
export function fill(parent, children) {
  const keyed = new Map();
  for (const node of parent.childNodes) {
    const key = described.get(node)?.key;
    if (key !== undefined) keyed.set(key, node);
  }
  let place = parent.firstChild;
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    let node = child.key === undefined ? place : keyed.get(child.key);
    if (!node || !fits(node, child)) node = create(child, parent);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, child);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function fits(node, child) {
  const before = described.get(node);
  if (!isDescription(child)) return node.nodeType === Node.TEXT_NODE;
  return before !== undefined && before.tag === child.tag && before.key === child.key;
}

function isDescription(child) {
  return typeof child === "object";
}

function create(child, parent) {
  if (!isDescription(child)) return document.createTextNode("");
  if (child.make) {
    const node = child.make();
    described.set(node, child);
    return node;
  }
  const svg = SVG_TAGS.has(child.tag) && (child.tag !== "title" || parent.namespaceURI === SVG);
  return svg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
}

function update(node, child) {
  if (!isDescription(child)) {
    const text = String(child);
    if (node.data !== text) node.data = text;
    return;
  }
  if (child.make) return;
  const before = described.get(node)?.props ?? {};
  for (const name of Object.keys(before)) if (!(name in child.props)) set(node, name, null);
  for (const [name, value] of Object.entries(child.props)) {
    if (before[name] !== value || name === "value") set(node, name, value);
  }
  described.set(node, child);
  fill(node, child.children);
}

function set(node, name, value) {
  if (name === "key") return;
  if (name.startsWith("on")) node[name] = value;
  else if ((name === "value" && HAS_TEXT.has(node.localName) && !CHOICES.has(node.type)) || name === "checked") {
    if (value !== null && value !== undefined && node[name] !== value) node[name] = value;
  } else if (name === "style") for (const [property, text] of Object.entries(value ?? {})) node.style.setProperty(property, text);
  else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}
