// The open sessions: how many, and how they are spread. There may be ten thousand, so none is shown by itself.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";

export function sessions(model) {
  const { sessions: open, sessions_spread: spread } = model.state.server;
  if (!open || !spread) return null;
  return h(
    "section",
    { class: "card spreads" },
    h("h2", {}, `${format.count(open)} sessions`),
    spreadBar("Steps so far", spread.steps, format.count),
    spreadBar("Since the last step", spread.idle_s, format.lasting),
  );
}

/** Half are within the first part, nine of ten within the second, all within the third. */
function spreadBar(label, { p50, p90, max }, written) {
  const share = (value) => (max > 0 ? (100 * value) / max : 100);
  const part = (name, value) => h("rect", { class: name, width: Math.max(0.8, share(value)), height: 8 });
  return h(
    "div",
    { class: "spread" },
    h("span", {}, label),
    h("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }, part("spread-max", max), part("spread-p90", p90), part("spread-p50", p50)),
    h("span", { class: "fact" }, `half up to ${written(p50)}, nine in ten up to ${written(p90)}, at most ${written(max)}`),
  );
}
