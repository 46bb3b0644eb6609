// Draws a distribution of the action: bars for choices, densities for numbers, a table for what has no drawing.

import { h } from "../draw/dom.js";
import { value as written } from "../draw/format.js";
import { boundsOf, flattened } from "./nest.js";

const POINTS = 80;
const [WIDTH, HEIGHT] = [280, 64];
const CURVE = 46; // of the height; numbers stand below

/** leaf: of the action's spec; said: {"family", "parameters", …}; action: what was answered, or undefined. */
export function drawing(leaf, said, action) {
  const { family, parameters } = said;
  const chosen = action === undefined ? [] : flattened(action);
  if (family === "bernoulli" && parameters.probs !== undefined) {
    return flattened(parameters.probs).map((prob, index) => bars([1 - prob, prob], 0, Number(chosen[index])));
  }
  if (parameters.probs !== undefined) return groups(parameters.probs).map((probs, index) => bars(probs, shiftOf(said, leaf, index), choiceOf(said, chosen, index)));
  const densities = densitiesOf(said, leaf);
  if (densities) return densities.map((one, index) => density(one, chosen[index], one.mode, densities.length > 1 ? `[${index}]` : ""));
  if (family === "deterministic") return flattened(parameters.loc).map((loc, index) => point(leaf, loc, index));
  return table(parameters);
}

/** The innermost lists. */
function groups(nested) {
  return Array.isArray(nested[0]) ? nested.flatMap(groups) : [nested];
}

function shiftOf({ family, parameters }, leaf, index) {
  if (family === "one_hot_categorical") return 0;
  return parameters.shift === undefined ? 0 : Number(flattened(parameters.shift)[index] ?? flattened(parameters.shift)[0]);
}

function choiceOf({ family }, chosen, index) {
  if (family === "one_hot_categorical") return chosen.indexOf(1);
  return chosen[index] === undefined ? undefined : Number(chosen[index]);
}

function bars(probs, first, chosen) {
  const shown = probs.map((prob, index) => ({ prob: Number(prob), label: first + index })).filter(({ prob, label }, index) => probs.length <= 24 || prob > 0.01 || label === chosen || index < 1);
  return h(
    "ol",
    { class: "bars" },
    shown.map(({ prob, label }) =>
      h(
        "li",
        { class: label === chosen ? "chosen" : "" },
        h("span", { class: "bar-label" }, label, label === chosen && h("span", { class: "unseen" }, " (the action)")),
        h("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, h("rect", { class: "track", width: 100, height: 10 }), h("rect", { class: "fill", width: Math.max(0.4, 100 * prob), height: 10 })),
        h("span", { class: "bar-value" }, `${(100 * prob).toFixed(1)} %`),
      ),
    ),
  );
}

/** [{low, high, of(x), mode}] of the independent parts, or null where the family has no such drawing. */
export function densitiesOf(said, leaf) {
  const { family, parameters } = said;
  const list = (name) => flattened(parameters[name] ?? []).map(Number);
  const modes = flattened(said.mode ?? []);
  if (family === "beta") {
    const [ones, zeros] = [list("concentration1"), list("concentration0")];
    return ones.map((a, index) => ({ low: 0, high: 1, of: (x) => Math.exp((a - 1) * Math.log(x) + (zeros[index] - 1) * Math.log(1 - x)), mode: modes[index] }));
  }
  const scales = scalesOf(parameters, list);
  const locs = list("loc");
  if (!scales?.length || !locs.length || !locs.every(Number.isFinite)) return null;
  if (!scales.every((scale) => scale > 0 && Number.isFinite(scale))) return null;
  if (family === "squashed_normal") return locs.map((loc, index) => squashed(loc, scales[index], list("low"), list("high"), index, modes[index]));
  if (family !== "normal" && !family.startsWith("multivariate_normal")) return null;
  return locs.map((loc, index) => {
    const scale = scales[index] ?? scales[0];
    return { low: loc - 3.5 * scale, high: loc + 3.5 * scale, of: (x) => Math.exp(-0.5 * ((x - loc) / scale) ** 2), mode: loc, bounds: boundsOf(leaf, index) };
  });
}

function scalesOf(parameters, list) {
  if (parameters.scale !== undefined) return list("scale");
  if (parameters.scale_diag !== undefined) return list("scale_diag");
  if (parameters.scale_tril === undefined) return null;
  return parameters.scale_tril.map((row) => Math.hypot(...row.map(Number)));
}

/** The density after tanh has brought it between two bounds. */
function squashed(loc, scale, lows, highs, index, mode) {
  const [low, high] = [lows[index] ?? lows[0], highs[index] ?? highs[0]];
  const of = (x) => {
    const t = (2 * (x - low)) / (high - low) - 1;
    return Math.exp(-0.5 * ((Math.atanh(t) - loc) / scale) ** 2) / (1 - t * t);
  };
  return { low, high, of, mode };
}

function density({ low, high, of, mode, bounds }, action, peak, label) {
  const inside = (x) => x !== undefined && Number.isFinite(Number(x));
  const seen = inside(action) ? Number(action) : undefined;
  const [from, to] = seen === undefined ? [low, high] : [Math.min(low, seen), Math.max(high, seen)];
  const x = (value) => 8 + ((value - from) / (to - from)) * (WIDTH - 16);
  const points = Array.from({ length: POINTS - 1 }, (_, index) => low + ((index + 1) / POINTS) * (high - low));
  const heights = points.map(of).map((height) => (Number.isFinite(height) ? height : 0));
  const top = Math.max(...heights, 1e-12);
  const line = points.map((value, index) => `L${x(value).toFixed(1)} ${(CURVE - 40 * (heights[index] / top)).toFixed(1)}`).join("");
  const marks = [
    ...(bounds ?? []).filter((bound) => bound > from && bound < to).map((bound) => h("line", { class: "bound", x1: x(bound), x2: x(bound), y1: 4, y2: CURVE })),
    inside(peak) && h("line", { class: "mode", x1: x(Number(peak)), x2: x(Number(peak)), y1: 4, y2: CURVE }),
    seen !== undefined && h("path", { class: "action-mark", d: `M${x(seen)} ${CURVE - 7}l5 8h-10z` }),
  ];
  const said = `density from ${written(from)} to ${written(to)}${inside(mode) ? `, mode ${written(Number(mode))}` : ""}${seen === undefined ? "" : `, action ${written(seen)}`}`;
  return h(
    "figure",
    { class: "density" },
    h("figcaption", {}, label && h("span", { class: "code" }, label), seen !== undefined && h("strong", {}, written(seen))),
    h(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": said },
      h("path", { class: "area", d: `M${x(low).toFixed(1)} ${CURVE}${line}L${x(high).toFixed(1)} ${CURVE}Z` }),
      h("path", { class: "line", d: `M${line.slice(1)}` }),
      h("line", { class: "axis", x1: 0, x2: WIDTH, y1: CURVE, y2: CURVE }),
      marks,
      h("text", { x: 8, y: HEIGHT - 4 }, written(from)),
      h("text", { x: WIDTH - 8, y: HEIGHT - 4, "text-anchor": "end" }, written(to)),
    ),
  );
}

/** A value without spread, between the bounds of its spec. */
function point(leaf, loc, index) {
  const [low, high] = boundsOf(leaf, index);
  if (!Number.isFinite(high - low) || high <= low || !Number.isFinite(Number(loc))) return h("p", { class: "code" }, written(loc));
  const x = 8 + ((Number(loc) - low) / (high - low)) * (WIDTH - 16);
  return h(
    "figure",
    { class: "density point" },
    h("figcaption", {}, h("strong", {}, written(Number(loc)))),
    h(
      "svg",
      { viewBox: `0 0 ${WIDTH} 30`, role: "img", "aria-label": `always ${written(Number(loc))}, between ${written(low)} and ${written(high)}` },
      h("line", { class: "axis", x1: 8, x2: WIDTH - 8, y1: 10, y2: 10 }),
      h("circle", { class: "action-mark", cx: x, cy: 10, r: 5 }),
      h("text", { x: 8, y: 27 }, written(low)),
      h("text", { x: WIDTH - 8, y: 27, "text-anchor": "end" }, written(high)),
    ),
  );
}

function table(parameters) {
  return h("dl", { class: "parameters" }, Object.entries(parameters).map(([name, values]) => h("div", {}, h("dt", {}, name), h("dd", { class: "code" }, short(values)))));
}

/** A nest of numbers in few digits; a long one is cut. */
export function short(values) {
  const text = JSON.stringify(values, (_, value) => (typeof value === "number" ? Number(value.toPrecision(4)) : value), 1);
  const line = text.replaceAll(/\n\s*/g, " ").replaceAll("[ ", "[").replaceAll(" ]", "]").replaceAll("{ ", "{").replaceAll(" }", "}");
  return line.length > 200 ? `${line.slice(0, 200)} …` : line;
}
