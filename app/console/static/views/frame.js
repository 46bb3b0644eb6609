// What is around each view: the header, and the banner that says what is wrong with the connection.

import { h } from "../draw/dom.js";
import { lasting, moment } from "../draw/format.js";
import { icon } from "../draw/icons.js";
import { tokens } from "../state/tokens.js";
import { askForToken } from "./dialogs.js";

export function header(model) {
  const server = model.state?.server;
  return [
    h(
      "a",
      { class: "brand", href: "#/" },
      h(
        "svg",
        { viewBox: "0 0 32 32", class: "mark", "aria-hidden": "true" },
        h("rect", { width: 32, height: 32, rx: 7 }),
        h("path", { d: "M7 22c4 0 5-12 9-12s5 12 9 12" }),
        h("circle", { cx: 16, cy: 10, r: 2.8 }),
      ),
      h("span", {}, "Policy server"),
    ),
    h("span", { class: "fact host" }, location.host),
    server && h("span", { class: "fact" }, `version ${server.version}`),
    server && h("span", { class: "fact" }, `up ${lasting(model.now() - server.started_at)}`),
    h("span", { class: "spring" }),
    connection(model),
    server && adminButton(server),
  ];
}

function connection({ connection: { live }, state }) {
  const [kind, text] = live ? ["live", "live"] : state ? ["gone", "not connected"] : ["waiting", "connecting"];
  return h("span", { class: `connection ${kind}` }, h("span", { class: "dot", "aria-hidden": "true" }), text);
}

function adminButton(server) {
  if (!server.admin) return h("span", { class: "fact", title: "The server was started without an admin token." }, icon("lock"), "read only");
  const has = Boolean(tokens.get("admin"));
  const title = has ? "Forget the admin token" : "Give the admin token, to reload, roll back and pause";
  return h("button", { class: "quiet", title, onclick: () => (has ? tokens.set("admin", "") : askForToken("admin")) }, icon("key"), has ? "sign out" : "admin");
}

export function banner(model) {
  const { live, problem, since } = model.connection;
  if (live || !problem) return [];
  const ago = lasting(Date.now() / 1000 - since);
  const from = moment(since, Date.now() / 1000);
  const text = {
    401: "This server asks for a token before it shows anything.",
    429: `The server shows no more pages now: ${problem.detail}`,
  }[problem.status];
  return [
    h(
      "div",
      { class: "banner" },
      icon("failed"),
      h(
        "p",
        {},
        h("strong", {}, text ?? `No connection since ${from} (${ago}): ${problem.detail}. `),
        text ? "" : model.state ? "What is shown is from then. " : "",
        problem.status === 401 ? "" : "The page tries again by itself.",
      ),
      problem.status === 401 && h("button", { onclick: () => askForToken("data") }, "Give the token"),
    ),
  ];
}
