// A chart of the last minutes: lines over time, with the swaps as marks on the axis. Drawn as SVG.

import { SPAN_S } from "../state/history.js";
import { h } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 150;
const LEFT = 46;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;
const GAP_S = 5; // without samples for so long a line is broken

/**
 * lines: [{field, name, className, fill}] of samples {at, field…}; swaps: [{at, label, refused}].
 * `format` writes the values of the axis.
 */
export function chart({ label, samples, lines, swaps, now, format }) {
  const x = (at) => LEFT + ((at - now + SPAN_S) / SPAN_S) * (WIDTH - LEFT - RIGHT);
  const top = niceTop(Math.max(0, ...samples.flatMap((one) => lines.map((line) => one[line.field] ?? 0))));
  const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", { class: "chart-title" }, label), legend(lines, samples, format)),
    h(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": spoken(label, lines, samples, swaps, format) },
      [0, top / 2, top].map((value) => level(value, y, format)),
      [4, 3, 2, 1, 0].map((minutes) => minuteMark(minutes, x(now - 60 * minutes))),
      lines.filter((line) => line.fill).map((line) => area(samples, line, x, y)),
      lines.map((line) => h("path", { class: `line ${line.className}`, d: path(samples, line.field, x, y) })),
      swaps.filter((swap) => swap.at > now - SPAN_S).map((swap) => swapMark(swap, x(swap.at))),
    ),
  );
}

/** A line without axes, for a row of a table. */
export function sparkline(samples, field, now) {
  const [width, height] = [88, 22];
  const top = Math.max(1e-9, ...samples.map((one) => one[field] ?? 0));
  const x = (at) => width + ((at - now) / 120) * width;
  const y = (value) => height - 2 - (value / top) * (height - 4);
  const recent = samples.filter((one) => one.at > now - 120);
  return h(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    h("path", { class: "line", d: path(recent, field, x, y) }),
  );
}

function legend(lines, samples, format) {
  const last = samples.at(-1) ?? {};
  return h(
    "span",
    { class: "legend" },
    lines.map((line) =>
      h("span", { class: `legend-entry ${line.className}` }, h("span", { class: "legend-name" }, line.name), " ", h("strong", {}, format(last[line.field]))),
    ),
  );
}

function level(value, y, format) {
  return h(
    "g",
    { class: "level" },
    h("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    h("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
  );
}

function minuteMark(minutes, x) {
  const anchor = minutes ? "middle" : "end";
  return h("text", { class: "minute", x, y: HEIGHT - 6, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now");
}

function swapMark(swap, x) {
  const bottom = HEIGHT - BOTTOM;
  return h(
    "g",
    { class: swap.refused ? "swap-mark refused" : "swap-mark" },
    h("title", {}, swap.label),
    h("line", { x1: x, x2: x, y1: TOP, y2: bottom }),
    h("path", { d: `M${x - 4} ${TOP - 6}h8l-4 7z` }),
  );
}

function path(samples, field, x, y) {
  let before = -Infinity;
  const points = [];
  for (const one of samples) {
    const value = one[field];
    if (value === undefined) continue;
    points.push(`${one.at - before > GAP_S ? "M" : "L"}${x(one.at).toFixed(1)} ${y(value).toFixed(1)}`);
    before = one.at;
  }
  return points.join("");
}

function area(samples, line, x, y) {
  const found = samples.filter((one) => one[line.field] !== undefined);
  if (found.length < 2) return null;
  const edge = found.map((one) => `L${x(one.at).toFixed(1)} ${y(one[line.field]).toFixed(1)}`).join("");
  const start = `M${x(found[0].at).toFixed(1)} ${y(0)}`;
  return h("path", { class: `area ${line.className}`, d: `${start}${edge}L${x(found.at(-1).at).toFixed(1)} ${y(0)}Z` });
}

/** The next of 1, 2, 5, 10, 20 … above a value. */
function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((top) => top >= value);
}

function spoken(label, lines, samples, swaps, format) {
  const last = samples.at(-1) ?? {};
  const now = lines.map((line) => `${line.name} ${format(last[line.field])}`).join(", ");
  return `${label}, last five minutes; now ${now}; ${swaps.length} swaps`;
}
