// The versions of a policy, the latest seen first; each can be made to serve.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { stateChip } from "../draw/states.js";
import { run } from "./actions.js";
import { askForTrial } from "./dialogs.js";
import { wish } from "./traffic.js";

const SERVABLE = new Set(["found", "released", "refused", "draining"]);

export function versionTable(model, name, policy) {
  const versions = policy.versions ?? [];
  const more = (policy.versions_total ?? versions.length) - versions.length;
  return h(
    "section",
    { class: "card versions" },
    h("h2", {}, "Versions"),
    h("ol", { class: "log" }, versions.map((version) => row(model, name, version, policy.traffic))),
    !versions.length && h("p", { class: "nothing" }, "None."),
    more > 0 && h("p", { class: "fact" }, `and ${format.count(more)} seen before`),
  );
}

async function tryOut(name, version, traffic) {
  const trial = await askForTrial(version);
  if (!trial) return;
  const { canary, shadow } = traffic ?? {};
  const arms = { canary: canary && wish(canary), shadow: shadow && wish(shadow), ...trial };
  await run(name, `Trying ${version}`, "traffic", arms, "PUT");
}

function row(model, name, version, traffic) {
  const serve = () => run(name, `Serving ${version.version}`, "reload", { checkpoint: version.version });
  return h(
    "li",
    { key: `${version.version} ${version.digest}`, class: `version version-${version.state}` },
    h(
      "div",
      { class: "swap-head" },
      h("span", { class: "code" }, version.version),
      stateChip(version.state, version.reason),
      h("span", { class: "spring" }),
      model.state.server.admin &&
        SERVABLE.has(version.state) && [
          h("button", { class: "small", "aria-label": `Try ${version.version}`, onclick: () => tryOut(name, version.version, traffic) }, "Try …"),
          h("button", { class: "small", "aria-label": `Serve ${version.version}`, onclick: serve }, "Serve"),
        ],
    ),
    h("div", { class: "fact" }, [`step ${format.step(version.train_step)}`, version.engine, `seen ${format.moment(version.seen_at, model.now())}`].filter(Boolean).join(" · ")),
    version.reason && h("p", { class: "reason" }, version.reason),
  );
}
