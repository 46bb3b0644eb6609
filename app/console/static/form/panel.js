// The try-it form: made from the policy's spec, it asks for an action and draws what comes.

import { build, fill, h } from "../draw/dom.js";
import { icon } from "../draw/icons.js";
import { asProblem, call, policyPath, Problem } from "../state/api.js";
import { tokens } from "../state/tokens.js";
import { Asking } from "./asking.js";
import { answerView, problemView } from "./answer.js";
import { numberIn } from "./controls.js";
import { asCurl, copy } from "./curl.js";
import { inputFields } from "./fields.js";

/** Makes the panel of a policy; it keeps itself. */
export function tryIt(model, name) {
  const body = build(h("div", {}, h("p", { class: "loading" }, "Reading the policy's spec …")));
  const node = build(h("section", { class: "card try", "aria-label": "Try it" }, h("h2", {}, "Try it")));
  node.append(body);
  load(name, body);
  return node;
}

async function load(name, body) {
  try {
    const { value } = await call("GET", policyPath(name), "data");
    body.replaceChildren(formOf(name, value));
  } catch (error) {
    fill(body, [problemView(asProblem(error)), h("button", { onclick: () => load(name, body) }, "Try again")]);
  }
}

function formOf(name, describes) {
  const asking = new Asking(name, describes);
  const fields = inputFields(describes.specs.inputs);
  const options = optionFields(describes);
  const answer = build(h("div", { class: "answer", "aria-live": "polite" }, h("p", { class: "nothing" }, "The answer appears here.")));
  const form = build(h("form", { class: "ask", novalidate: true }));
  const waysNode = build(h("div", {}));
  const buttonsNode = build(h("div", { class: "buttons" }));
  const redraw = () => {
    fill(waysNode, asking.recurrent ? ways(asking, redraw) : []);
    fill(buttonsNode, buttons(asking, fields, options, ask));
  };
  let before = {};

  const ask = async () => {
    if (answer.ariaBusy === "true") return;
    answer.ariaBusy = "true";
    try {
      const chosen = options.read();
      const asked = await asking.ask(fields.read(), chosen);
      const now = { body: JSON.stringify(asking.last.body), action: JSON.stringify(asked.answer.action) };
      const same = chosen.seed !== undefined && before.body === now.body ? before.action === now.action : undefined;
      before = now;
      fill(answer, answerView({ ...asked, same }, describes.specs));
    } catch (error) {
      fill(answer, problemView(error instanceof Problem ? error : { status: 0, detail: error.message }));
    }
    answer.ariaBusy = "false";
    redraw();
  };

  form.onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  redraw();
  form.append(fields.node, waysNode, options.node, buttonsNode);
  const both = build(h("div", { class: "try-columns" }));
  both.append(form, answer);
  return both;
}

function buttons(asking, fields, options, ask) {
  const again = () => {
    options.drawSeed();
    return ask();
  };
  return [
    h("button", { type: "submit", class: "primary" }, icon("send"), asking.underWay ? "Ask for the next step" : "Ask for an action"),
    h("button", { type: "button", onclick: () => fields.set("random") }, icon("dice"), "Random"),
    h("button", { type: "button", onclick: () => fields.set("zeros") }, "Zeros"),
    options.seeded && asking.last && h("button", { type: "button", onclick: again, title: "The same request and seed give the same action" }, icon("reload"), "Again with seed"),
    asking.last && copyButton(asking),
  ];
}

function copyButton(asking) {
  const act = async (event) => {
    const button = event.currentTarget;
    await copy(asCurl(asking.last.path, asking.last.body, Boolean(tokens.get("data"))));
    button.lastChild.data = "Copied";
    setTimeout(() => (button.lastChild.data = "Copy as curl"), 1500);
  };
  return h("button", { type: "button", onclick: act }, icon("copy"), "Copy as curl");
}

/** How a policy with a state is asked. */
function ways(asking, draw) {
  const over = async () => {
    await asking.restart();
    draw();
  };
  const pick = (value) => () => {
    asking.way = value;
    return over();
  };
  const choice = (value, text) =>
    h("label", {}, h("input", { type: "radio", name: "way", value, checked: asking.way === value, onchange: pick(value) }), h("span", {}, text));
  return [
    h(
      "fieldset",
      { class: "ways" },
      h("legend", {}, "The policy keeps a state from step to step"),
      h("span", { class: "segments" }, choice("session", "in a session"), choice("state", "sent along"), choice("once", "first step only")),
      h("button", { type: "button", class: "small", disabled: !asking.underWay, onclick: over }, "Start over"),
    ),
  ];
}

/** {node, read(), drawSeed(), seeded}: mode, seed and log-probability. */
function optionFields({ unavailable }) {
  const seed = build(h("input", { type: "number", id: "option-seed", min: 0, step: 1, placeholder: "none" }));
  const mode = build(h("select", { id: "option-mode" }, [["", "as exported"], ["sample", "sample"], ["greedy", "greedy"]].map(([value, text]) => h("option", { value, disabled: Boolean(unavailable?.[value]), title: unavailable?.[value] }, text))));
  const logProb = build(h("input", { type: "checkbox", id: "option-log-prob", disabled: Boolean(unavailable?.log_prob), title: unavailable?.log_prob }));
  const node = build(h("div", { class: "options" }));
  for (const [label, control] of [["Mode", mode], ["Seed", seed], ["Log-probability", logProb]]) {
    const entry = build(h("div", { class: "option" }, h("label", { for: control.id }, label)));
    entry.append(control);
    node.append(entry);
  }
  return {
    node,
    seeded: !unavailable?.sample,
    read: () => ({
      ...(mode.value && { mode: mode.value }),
      ...(seed.value !== "" && { seed: numberIn(seed, "Seed", true) }),
      ...(logProb.checked && { log_prob: true }),
    }),
    drawSeed: () => {
      if (seed.value === "") seed.value = String(Math.floor(1e6 * Math.random()));
    },
  };
}
