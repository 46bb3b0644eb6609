// The states of a version, and what else a policy may be: each has a word, an icon and a colour of its own.

import { h } from "./dom.js";
import { icon } from "./icons.js";

const MEANINGS = {
  found: "seen in the folder, not read yet",
  loaded: "its files are read and checked",
  verified: "it answers the probe inputs; workers load it",
  active: "new requests run on it",
  draining: "it finishes what began on it",
  released: "nothing runs on it any more",
  refused: "it may not serve",
  failed: "the policy cannot be opened",
  paused: "requests wait, or are refused",
};

export function stateChip(state, reason) {
  const title = reason ? `${MEANINGS[state]}: ${reason}` : MEANINGS[state];
  return h("span", { class: `chip state-${state}`, title }, icon(state), h("span", {}, state));
}

/** What a policy is as a whole: failed, paused, or the state of what serves. */
export function stateOf(policy) {
  if (!policy.ready) return "failed";
  return policy.paused ? "paused" : "active";
}

export function badge(kind, text, title) {
  return h("span", { class: `chip badge-${kind}`, title }, icon(kind), h("span", {}, text));
}
