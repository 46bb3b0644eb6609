// A chart of the last minutes: lines over time, with the swaps as marks on the axis. The lines are SVG, stretched to the
// space that there is; words and marks are HTML, which keeps its size.

import { h } from "./dom.js";

const SPANS_S = [60, 120, 300];
const GAP_S = 8; // without samples for so long a line is broken
const [WIDTH, HEIGHT] = [600, 100];

/**
 * lines: [{field, name, className, fill}] of samples {at, field…}; swaps: [{at, label, refused}].
 * `format` writes values; `axis` those of the axis.
 */
export function chart({ label, samples, lines, swaps, now, format, axis = format }) {
  const span = SPANS_S.find((one) => !samples.length || now - samples[0].at <= one) ?? SPANS_S.at(-1);
  const seen = samples.filter((one) => one.at >= now - span);
  const shown = swaps.filter((swap) => swap.at >= now - span);
  const share = (at) => (at - now + span) / span;
  const top = niceTop(Math.max(0, ...seen.flatMap((one) => lines.map((line) => one[line.field] ?? 0))));
  const x = (at) => WIDTH * share(at);
  const y = (value) => HEIGHT * (1 - value / top);
  return h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", { class: "chart-title" }, label), legend(lines, seen, format)),
    h(
      "div",
      { class: "plot", role: "img", "aria-label": spoken(label, lines, seen, shown, format) },
      h("div", { class: "levels" }, [top, top / 2, 0].map((value) => h("span", {}, axis(value)))),
      h(
        "div",
        { class: "lines" },
        h(
          "svg",
          { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" },
          [0, HEIGHT / 2, HEIGHT].map((height) => h("line", { class: "level", x1: 0, x2: WIDTH, y1: height, y2: height })),
          lines.filter((line) => line.fill).map((line) => area(seen, line, x, y)),
          lines.map((line) => h("path", { class: `line ${line.className}`, d: path(seen, line.field, x, y) })),
        ),
        shown.map((swap) => h("span", { class: swap.refused ? "swap-mark refused" : "swap-mark", title: swap.label, style: { left: `${100 * share(swap.at)}%` } })),
      ),
      h("div", { class: "times" }, [1, 0.75, 0.5, 0.25, 0].map((part) => h("span", {}, ago(part * span)))),
    ),
  );
}

/** A line without axes, for a row of a table. */
export function sparkline(samples, field, now) {
  const [width, height] = [88, 22];
  const recent = samples.filter((one) => one.at > now - 120);
  const top = Math.max(1e-9, ...recent.map((one) => one[field] ?? 0));
  const x = (at) => width + ((at - now) / 120) * width;
  const y = (value) => height - 2 - (value / top) * (height - 4);
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
      h("span", { class: `legend-entry ${line.className}` }, h("span", {}, line.name), " ", h("strong", {}, format(last[line.field]))),
    ),
  );
}

function ago(seconds) {
  if (!seconds) return "now";
  return seconds >= 60 ? `−${Number((seconds / 60).toFixed(2))} min` : `−${seconds} s`;
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
  return `${label} over the last minutes; now ${now}; swaps: ${swaps.length}`;
}
