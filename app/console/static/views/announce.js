// Says aloud, for screen readers, what has changed: swaps that ended, a connection that was lost or is back.

import { took } from "../draw/format.js";

const ended = new Set();
let known = false;
let wasLive = false;

export function announce(model, node) {
  if (!model.state) return;
  const said = model.swaps().filter((swap) => isNew(swap)).map(sentence);
  if (known && wasLive !== model.connection.live) said.push(model.connection.live ? "Connected again." : "The connection is lost.");
  if (known && said.length) node.textContent = said.reverse().join(" ");
  wasLive = model.connection.live;
  known = true;
}

function isNew(swap) {
  const mark = `${swap.id} ${swap.began_at}`;
  if ((swap.state !== "done" && swap.state !== "refused") || ended.has(mark)) return false;
  ended.add(mark);
  return true;
}

function sentence(swap) {
  return swap.state === "done"
    ? `${swap.policy}: version ${swap.version} serves, after ${took(swap.took_s)}.`
    : `${swap.policy}: version ${swap.version} was refused: ${swap.reason}`;
}
