// What is tried beside the active version: both arms with their returns, what decides on them, and how the last trial ended.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";
import { run } from "./actions.js";

// So many standard errors to both sides of a mean have the true one between them, 95 times of 100.
const INTERVAL = 1.96;
const ENDED = { stop: ["refused", "bad", "was stopped"], promote: ["active", "good", "was promoted"], end: ["released", "", "is tried no more"] };

export function traffic(model, name, policy) {
  const found = policy.traffic;
  if (!found) return null;
  const { canary, shadow, decision } = found;
  return h(
    "section",
    { class: "card traffic" },
    h("div", { class: "card-head" }, h("h2", {}, "Traffic"), model.state.server.admin && buttons(name, found)),
    canary && [h("p", { class: "fact" }, asked(canary)), arms(found), canary.promote_after_episodes && progress(canary)],
    shadow && shadowOf(shadow),
    decision && ended(decision, model.now()),
  );
}

function asked({ version, share, stop_if_return_drops: drop, promote_after_episodes: episodes }) {
  const rules = [
    drop !== undefined && `it is refused once its mean return is lower by more than ${percent(drop)}`,
    episodes && `it becomes active after ${format.count(episodes)} episodes`,
  ].filter(Boolean);
  return `${version} gets ${percent(share)} of the sessions that begin${rules.length ? `; ${rules.join("; ")}` : ""}.`;
}

function arms({ active, canary }) {
  const rows = [["active", active], ["canary", canary]];
  const scale = scaleOf(rows.map(([, arm]) => arm));
  const heads = ["Arm", "Sessions", "Episodes", "Mean return", "Answers", "Failures", "p50", "p99"];
  return h(
    "table",
    {},
    h("caption", { class: "unseen" }, "The arms, and what they have come to"),
    h("thead", {}, h("tr", {}, heads.map((head, place) => h("th", { scope: "col", class: place > 3 ? "from-medium" : "" }, head)))),
    h("tbody", {}, rows.map(([arm, figures]) => row(arm, figures, scale))),
  );
}

function row(arm, figures, scale) {
  return h(
    "tr",
    { key: arm, class: `arm-${arm}` },
    h("th", { scope: "row" }, arm, h("span", { class: "below" }, figures.version)),
    h("td", {}, format.count(figures.sessions)),
    h("td", {}, format.count(figures.episodes)),
    h("td", { class: "return" }, scale && figures.mean_return !== undefined && interval(figures, scale), meanOf(figures)),
    h("td", { class: "from-medium" }, format.count(figures.answers)),
    h("td", { class: "from-medium" }, format.count(figures.failures)),
    h("td", { class: "from-medium" }, format.ms(figures.p50_ms)),
    h("td", { class: "from-medium" }, format.ms(figures.p99_ms)),
  );
}

function meanOf({ mean_return: mean, stderr }) {
  if (mean === undefined) return format.NONE;
  return stderr === undefined ? format.value(mean) : `${format.value(mean)} ± ${Number(stderr.toPrecision(2))}`;
}

/** The least and the most that both arms' error bars reach; null without returns. */
function scaleOf(figures) {
  const ends = figures.filter((arm) => arm.mean_return !== undefined).flatMap(endsOf);
  if (!ends.length) return null;
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  return { least, width: most - least || 1 };
}

function endsOf({ mean_return: mean, stderr = 0 }) {
  return [mean - INTERVAL * stderr, mean + INTERVAL * stderr];
}

/** A mean return as a mark on its error bar, on the scale that both arms share. */
function interval(figures, { least, width }) {
  const place = (value) => 3 + (94 * (value - least)) / width;
  const [from, to] = endsOf(figures).map(place);
  const mean = place(figures.mean_return);
  return h(
    "svg",
    { class: "interval", viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path", { d: `M${from} 8H${to}M${from} 4v8M${to} 4v8` }),
    h("rect", { x: mean - 1.5, y: 3, width: 3, height: 10 }),
  );
}

function progress({ episodes, promote_after_episodes: most }) {
  return h("progress", { value: Math.min(episodes, most), max: most, "aria-label": `${format.count(episodes)} of ${format.count(most)} episodes` });
}

function shadowOf(shadow) {
  const entries = [
    ["Compared", format.count(shadow.compared)],
    ["Agreement", shadow.agreement === undefined ? format.NONE : percent(shadow.agreement)],
    ["Largest difference", shadow.max_difference === undefined ? format.NONE : format.value(shadow.max_difference)],
    shadow.mean_kl !== undefined && ["Mean KL", format.value(shadow.mean_kl)],
    ["Skipped", format.count(shadow.skipped)],
  ];
  return [
    h("p", { class: "fact" }, `${shadow.version} is the shadow: it is asked ${percent(shadow.share)} of what the active version answers, and answers nobody.`),
    h("dl", { class: "tiles" }, entries.filter(Boolean).map(([term, value]) => h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value)))),
  ];
}

function ended({ action, version, reason, at }, now) {
  const [symbol, kind, text] = ENDED[action];
  return h("p", { class: `notice decision ${kind}` }, icon(symbol), `${version} ${text}, ${format.moment(at, now)}: ${reason}`);
}

function buttons(name, { canary, shadow }) {
  const button = (text, title, act) => h("button", { class: "small", title, onclick: act }, text);
  const keep = (arms) => run(name, "Stopping", "traffic", arms, "PUT");
  return h(
    "div",
    { class: "buttons" },
    canary && button("Promote", "Make the canary the active version", () => run(name, `Promoting ${canary.version}`, "traffic/promote")),
    canary && button("Stop", "End the trial: the canary is refused", () => keep(shadow ? { shadow: wish(shadow) } : {})),
    shadow && button("Stop the shadow", "Ask it no more", () => keep(canary ? { canary: wish(canary) } : {})),
  );
}

/** What was asked for of an arm, to ask for it again. */
export function wish({ version, share, promote_after_episodes: promote, stop_if_return_drops: stop }) {
  return { checkpoint: version, share, promote_after_episodes: promote, stop_if_return_drops: stop };
}

function percent(share) {
  return `${Number((100 * share).toPrecision(3))} %`;
}
