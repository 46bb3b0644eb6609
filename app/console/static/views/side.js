// Beside the policies: members of the fleet, and the last calls of admin routes.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";

/** The members of the fleet; where a policy is named, with the version that each has of it. */
export function fleet(model, policy) {
  const found = model.state.fleet;
  if (!found) return null;
  return h(
    "section",
    { class: "card" },
    h("h2", {}, `Fleet ${found.name}`),
    !found.reaches && h("p", { class: "notice bad" }, icon("failed"), "Redis does not answer this server: weights stay as they are."),
    found.reaches && !found.leased && h("p", { class: "notice bad" }, icon("failed"), "This server does not take part in its fleet now."),
    h(
      "ul",
      { class: "members" },
      found.members.map((member) =>
        h(
          "li",
          { key: member.id },
          h("span", { class: "member-name" }, member.url || member.id, member.id === found.member && h("span", { class: "default" }, "this one")),
          h("span", { class: "fact" }, `since ${format.moment(member.since, model.now())}`),
          h("span", { class: "code" }, policy === undefined ? agreement(found, member) : (member.policies[policy] ?? format.NONE)),
        ),
      ),
    ),
  );
}

/** How many of a member's policies are at the version that most have. */
function agreement(found, member) {
  const names = Object.keys(member.policies);
  const same = names.filter((name) => found.members.every((other) => other.policies[name] === member.policies[name]));
  return same.length === names.length ? "same versions" : `${names.length - same.length} of ${names.length} differ`;
}

export function audit(model, policy) {
  const calls = (model.state.audit ?? []).filter((one) => policy === undefined || one.call.includes(`/policies/${encodeURIComponent(policy)}/`));
  if (!calls.length) return null;
  return h(
    "section",
    { class: "card" },
    h("h2", {}, "Admin calls"),
    h(
      "ol",
      { class: "log" },
      calls.slice(0, 8).map((one) =>
        h(
          "li",
          {},
          h("span", { class: one.status < 400 ? "status good" : "status bad" }, one.status),
          h("span", { class: "code" }, one.call.replace(/^(\w+) \/admin\/(policies\/)?/, "$1 ")),
          h("span", { class: "fact" }, format.moment(one.at, model.now())),
        ),
      ),
    ),
  );
}
