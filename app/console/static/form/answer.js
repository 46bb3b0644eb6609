// An answer: the action, how it is distributed, and what it was answered by.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";
import { drawing, short } from "./distribution.js";
import { leavesOf } from "./nest.js";

/** asked: {answer, text, tookMs, distribution?, note?, same?}; specs: those of the policy. */
export function answerView({ answer, text, tookMs, distribution, note, same }, specs) {
  const parts = leavesOf(specs.action, answer.action);
  return [
    h("h3", {}, "Answer"),
    h(
      "div",
      { class: "answer-head" },
      h("output", { class: "action code", "data-action": JSON.stringify(answer.action) }, short(answer.action)),
      h("span", { class: "fact" }, `${answer.version} · step ${format.step(answer.train_step)} · ${format.ms(tookMs)}`),
    ),
    answer.log_prob !== undefined && h("p", { class: "fact" }, `log-probability ${format.value(answer.log_prob)}`),
    same !== undefined && h("p", { class: same ? "notice good" : "notice bad" }, icon(same ? "active" : "refused"), same ? "The same action as before." : "Another action than before: other weights, or another observation."),
    note && h("p", { class: "fact" }, note),
    distribution && parts.map((part) => described(part, at(distribution, part.path), parts.length > 1)),
    h("details", { class: "more" }, h("summary", {}, "As JSON"), h("pre", { class: "json", tabindex: 0 }, text)),
  ];
}

function at(nested, path) {
  return path.split("/").filter(Boolean).reduce((found, key) => found?.[key], nested);
}

function described({ leaf, path, value }, said, named) {
  if (!said?.family) return null;
  const facts = [["entropy", said.entropy], ["mode", said.mode]].filter(([, found]) => found !== undefined);
  return h(
    "section",
    { class: "distribution" },
    h("h4", {}, named ? `${path}: ` : "", said.family.replaceAll("_", " ")),
    drawing(leaf, said, value),
    facts.length > 0 && h("p", { class: "fact" }, facts.map(([name, found]) => `${name} ${short(found)}`).join(" · ")),
  );
}

export function problemView(problem) {
  return [
    h("p", { class: "notice bad", role: "alert" }, icon("refused"), problem.status ? `${problem.status}: ${problem.detail}` : problem.detail),
    problem.errors?.length > 0 &&
      h("ul", { class: "reasons" }, problem.errors.map((one) => h("li", {}, h("strong", {}, one.where), `: ${one.problem}${one.expected ? `; expected ${one.expected}` : ""}`))),
  ];
}
