// The log of swaps: each with its stages as a bar, as long as they took.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { stateChip } from "../draw/states.js";

const STAGES = {
  loaded: "files copied, read and checked",
  verified: "probe inputs answered",
  active: "all workers have switched",
  drained: "the last batch on the older weights has ended",
};
const CHIPS = { preparing: "found", loaded: "loaded", verified: "verified", active: "active", done: "active", refused: "refused" };
const WORDS = { preparing: "preparing", done: "serves" };

/** Marks for a chart. */
export function marks(swaps) {
  return swaps
    .filter((swap) => swap.state === "done" || swap.state === "refused")
    .map((swap) => ({
      at: swap.began_at + (swap.took_s ?? 0),
      refused: swap.state === "refused",
      label: `${swap.policy}: ${swap.version} ${swap.state === "refused" ? "refused" : "serves"}`,
    }));
}

export function swapLog(model, swaps, { named }) {
  // That of the start, which compiles, takes so long that the others would be dots beside it.
  const compared = swaps.filter((swap) => swap.previous !== undefined);
  const longest = Math.max(0.001, ...(compared.length ? compared : swaps).map((swap) => lengthOf(swap)));
  return h(
    "section",
    { class: "card swaps" },
    h("h2", {}, "Swaps"),
    swaps.length > 0 && key(),
    h("ol", { class: "log" }, swaps.map((swap) => entry(model, swap, longest, named))),
    !swaps.length && h("p", { class: "nothing" }, "None yet. A checkpoint that is published appears here."),
  );
}

function key() {
  return h("p", { class: "stage-key" }, Object.entries(STAGES).map(([stage, title]) => h("span", { class: `stage-${stage}`, title }, stage)));
}

function entry(model, swap, longest, named) {
  const word = WORDS[swap.state] ?? swap.state;
  return h(
    "li",
    { key: `${swap.id} ${swap.began_at}`, class: `swap swap-${swap.state}` },
    h(
      "div",
      { class: "swap-head" },
      named && h("a", { href: `#/policies/${encodeURIComponent(swap.policy)}` }, swap.policy),
      h("span", { class: "code" }, swap.version),
      h("span", { class: "spring" }),
      swap.state === "done" ? h("span", { class: "fact" }, format.took(swap.took_s)) : stateChip(CHIPS[swap.state], word),
      h("span", { class: "fact time" }, format.moment(swap.began_at, model.now())),
    ),
    stageBar(swap, longest),
    swap.reason && h("p", { class: "reason" }, swap.reason),
  );
}

function lengthOf(swap) {
  return Object.values(swap.stages ?? {}).reduce((total, one) => total + one, 0);
}

function stageBar(swap, longest) {
  const stages = Object.keys(STAGES).filter((stage) => swap.stages?.[stage] !== undefined);
  const said = stages.map((stage) => `${stage} ${format.took(swap.stages[stage])}`).join(", ");
  let x = 0;
  return h(
    "svg",
    { class: "stage-bar", viewBox: "0 0 300 8", preserveAspectRatio: "none", role: "img", "aria-label": said || "no stage ended yet" },
    h("title", {}, said),
    h("rect", { class: "track", width: 300, height: 8, rx: 2 }),
    stages.map((stage) => {
      const width = Math.max(1.5, (300 * swap.stages[stage]) / longest);
      x += width;
      return h("rect", { class: `stage-${stage}`, x: x - width, width: Math.max(0.5, width - 1), height: 8 });
    }),
  );
}
