// Everything about one policy.

import { chart } from "../draw/chart.js";
import { h, own } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";
import { badge, stateChip, stateOf } from "../draw/states.js";
import { tryIt } from "../form/panel.js";
import { actions } from "./actions.js";
import { experience } from "./experience.js";
import { audit, fleet } from "./side.js";
import { marks, swapLog } from "./swaps.js";
import { traffic } from "./traffic.js";
import { versionTable } from "./versions.js";

export function policyPage(model, name) {
  const policy = model.state.policies[name];
  if (!policy) return [back(), h("h1", { tabindex: -1 }, name), h("p", { class: "nothing" }, "This server has no policy of that name.")];
  const swaps = model.swaps(name);
  return [
    back(),
    title(name, policy),
    facts(model, name, policy),
    !policy.ready && h("p", { class: "notice bad" }, icon("failed"), policy.reason || "It cannot be opened."),
    policy.stale !== undefined && h("p", { class: "notice" }, icon("failed"), policy.stale || "The export was saved again, and does not serve yet."),
    policy.ready && actions(model, name, policy),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, policy.ready && traffic(model, name, policy), policy.ready && live(model, name, swaps), policy.ready && own(`try ${name} ${graphOf(swaps)}`, () => tryIt(model, name))),
      h("div", { class: "side-column" }, versionTable(model, name, policy), experience(policy), swapLog(model, swaps.slice(0, 10), { named: false }), fleet(model, name), audit(model, name)),
    ),
  ];
}

/** The swap that last brought another graph, and with it perhaps another form. */
function graphOf(swaps) {
  return swaps.find((swap) => swap.version === "export" && swap.state === "done" && swap.previous)?.id ?? 0;
}

function back() {
  return h("a", { class: "back", href: "#/" }, icon("left"), "All policies");
}

function title(name, policy) {
  return h(
    "div",
    { class: "title" },
    h("h1", { tabindex: -1 }, name),
    stateChip(stateOf(policy), policy.reason),
    policy.paused && h("span", { class: "fact" }, policy.paused === "wait" ? "requests wait" : "requests are refused"),
    policy.pinned && badge("pinned", `pinned to ${policy.pinned}`, "Watching moves on after a reload of the newest"),
  );
}

function facts(model, name, policy) {
  const rates = model.state.rates[name] ?? {};
  const entries = [
    ["Version", policy.version],
    ["Train step", format.step(policy.train_step)],
    ["Engine", policy.engine],
    ["Answers/s", format.rate(rates.answers_per_s ?? 0)],
    ["p50", format.ms(rates.p50_ms)],
    ["p99", format.ms(rates.p99_ms)],
    rates.errors_per_s > 0 && ["Errors/s", format.rate(rates.errors_per_s)],
    policy.sessions !== undefined && ["Sessions", format.count(policy.sessions)],
  ];
  if (!policy.ready) return null;
  return h("dl", { class: "tiles" }, entries.filter(Boolean).map(([term, value]) => h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value || format.NONE))));
}

function live(model, name, swaps) {
  const common = { samples: model.history.of(name), swaps: marks(swaps), now: model.now() };
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Live"),
    chart({ ...common, label: "Answers a second", format: format.rate, lines: [{ field: "answers_per_s", name: "answers/s", className: "answers", fill: true }] }),
    chart({
      ...common,
      label: "Latency",
      format: format.ms,
      axis: format.roundMs,
      lines: [
        { field: "p99_ms", name: "p99", className: "p99" },
        { field: "p50_ms", name: "p50", className: "p50" },
      ],
    }),
  );
}
