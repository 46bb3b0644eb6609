// What is shown before any policy serves.

import { h } from "../draw/dom.js";

const EXPORT = `from saver import PolicySaver

saver = PolicySaver(agent.policy, train_step=agent.train_step_counter)
saver.save("policies/cartpole")`;

export function noPolicies() {
  return h(
    "section",
    { class: "card welcome" },
    h("h2", {}, "No policy yet"),
    h("p", {}, "This server answers for no policy. Two steps bring one here."),
    h("ol", {}, h("li", {}, "In the training program:", h("pre", { tabindex: 0 }, EXPORT)), h("li", {}, "Start the server with the folder:", h("pre", { tabindex: 0 }, "policy-server serve cartpole=policies/cartpole"))),
    h("p", {}, "This page shows it by itself as soon as it serves."),
  );
}

/** rows: {name, policy} of policies that cannot be opened. */
export function nothingReady(rows) {
  return h(
    "section",
    { class: "card welcome" },
    h("h2", {}, "No policy serves yet"),
    h("p", {}, "The server tries each again by itself, and this page shows it as soon as it serves. Why they do not:"),
    h("ul", { class: "reasons" }, rows.slice(0, 5).map((row) => h("li", { key: row.name }, h("strong", {}, row.name), " ", row.policy.reason || "it is being opened"))),
    rows.length > 5 && h("p", {}, `… and ${rows.length - 5} more, below.`),
    h("p", {}, "An export is made in the training program:"),
    h("pre", { tabindex: 0 }, EXPORT),
  );
}
