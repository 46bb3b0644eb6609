// Nests of a spec: {"dict": {…}}, {"list": […]}, or a leaf with name, dtype, shape and perhaps bounds.

export function isLeaf(nest) {
  return nest.dict === undefined && nest.list === undefined;
}

/** [[key, nest]] of what is in a dict or a list. */
export function childrenOf(nest) {
  return Object.entries(nest.dict ?? nest.list);
}

/** The JSON value of a nest, with `valueOf(leaf, path)` at each leaf. */
export function pack(nest, valueOf, path = "") {
  if (isLeaf(nest)) return valueOf(nest, path);
  const values = childrenOf(nest).map(([key, child]) => [key, pack(child, valueOf, path ? `${path}/${key}` : key)]);
  return nest.dict === undefined ? values.map(([, value]) => value) : Object.fromEntries(values);
}

/** [{leaf, path, value}] of a JSON value that has the form of a nest. */
export function leavesOf(nest, value, path = "") {
  if (isLeaf(nest)) return [{ leaf: nest, path, value }];
  return childrenOf(nest).flatMap(([key, child]) => leavesOf(child, value?.[key], path ? `${path}/${key}` : key));
}

export function sizeOf(shape) {
  return shape.reduce((product, length) => product * length, 1);
}

/** Nested lists of a shape from a flat list. */
export function shaped(flat, shape) {
  if (!shape.length) return flat[0];
  const part = flat.length / shape[0];
  return Array.from({ length: shape[0] }, (_, index) => shaped(flat.slice(index * part, (index + 1) * part), shape.slice(1)));
}

export function flattened(value) {
  return Array.isArray(value) ? value.flat(Infinity) : [value];
}

/** The bounds of one entry of a leaf; infinite where it has none that anybody would drag a slider to. */
export function boundsOf(leaf, index) {
  const at = (bound, without) => {
    if (bound === undefined || bound === null) return without;
    const found = Array.isArray(bound) ? Number(flattened(bound)[index]) : Number(bound);
    return Math.abs(found) <= 1e6 ? found : without; // which NaN is not either
  };
  return [at(leaf.minimum, -Infinity), at(leaf.maximum, Infinity)];
}

export function isInteger(leaf) {
  return /^u?int/.test(leaf.dtype);
}
