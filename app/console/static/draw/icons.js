// Icons, 16 × 16, drawn in the colour of the text; always beside a word, or named by `label`.

import { h } from "./dom.js";

const PATHS = {
  found: "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11z",
  loaded: "M8 2v7.5M4.8 6.6 8 9.8l3.2-3.2M3 13.2h10",
  verified: "M8 1.8 13 3.6v4.2c0 3-2.1 5.2-5 6.4-2.9-1.2-5-3.4-5-6.4V3.6zM5.7 8l1.7 1.7 3-3.2",
  active: "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2zM5.4 8.1l1.9 1.9 3.4-3.8",
  draining: "M4 2.5h8M4 13.5h8M5 2.5c0 3 3 3.6 3 5.5s-3 2.5-3 5.5M11 2.5c0 3-3 3.6-3 5.5s3 2.5 3 5.5",
  released: "M4 8h8",
  refused: "M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2zM5.8 5.8l4.4 4.4M10.2 5.8l-4.4 4.4",
  failed: "M8 2.3 14.3 13.3H1.7zM8 6.5v3.2M8 11.4v.4",
  paused: "M5.8 3.5v9M10.2 3.5v9",
  play: "M5 3l7.5 5L5 13z",
  pinned: "M6 2.5h4l-.6 4 2.1 2.3H4.5l2.1-2.3zM8 8.8v4.7",
  reload: "M13 8a5 5 0 1 1-1.5-3.6M13 2.5v3h-3",
  back: "M6.5 3.5 3 7l3.5 3.5M3 7h6a4 4 0 0 1 0 7.5H7",
  key: "M5 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM7.5 8H14v2.5M11.3 8v2",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.3 10.3l3.4 3.4",
  copy: "M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z",
  dice: "M3 3h10v10H3zM5.8 5.8v.1M10.2 5.8v.1M8 8v.1M5.8 10.2v.1M10.2 10.2v.1",
  send: "M2.5 8h10M8.5 4l4 4-4 4",
  left: "M9.5 3.5 5 8l4.5 4.5",
  lock: "M4 7.5h8v6H4zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5",
};

export function icon(name, label) {
  const named = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return h("svg", { class: `icon icon-${name}`, viewBox: "0 0 16 16", ...named }, h("path", { d: PATHS[name] }));
}
