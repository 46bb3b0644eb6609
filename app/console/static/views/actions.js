// What an operator may do with a policy. Each call needs the admin token, which is asked for when it is first needed.

import { h } from "../draw/dom.js";
import { icon } from "../draw/icons.js";
import { took } from "../draw/format.js";
import { adminPath, asProblem, call } from "../state/api.js";
import { changed, model } from "../state/model.js";
import { tokens } from "../state/tokens.js";
import { askForPause, askForToken } from "./dialogs.js";

export function actions({ state }, name, policy) {
  const closed = !state.server.admin;
  const button = (symbol, text, act, title) => h("button", { disabled: closed, title, onclick: act }, icon(symbol), text);
  return h(
    "section",
    { class: "actions", "aria-label": "Actions" },
    button("reload", "Reload newest", () => run(name, "Reloading", "reload", {}), "Serve the newest checkpoint, and follow the folder again"),
    button("back", "Roll back", () => run(name, "Rolling back", "rollback"), "Serve the version before, and stay there"),
    policy.paused
      ? button("play", "Resume", () => run(name, "Resuming", "resume"), "Answer again")
      : button("paused", "Pause …", () => pause(name), "Answer nothing for a while"),
    closed && h("span", { class: "fact" }, icon("lock"), "The server was started without an admin token."),
    notice(model.notices[name]),
  );
}

function notice(found) {
  const symbols = { good: "active", bad: "refused", busy: "reload" };
  return h("p", { class: found ? `notice ${found.kind}` : "notice none", role: "status" }, found && [icon(symbols[found.kind]), found.text]);
}

async function pause(name) {
  const mode = await askForPause(name);
  if (mode) await run(name, "Pausing", "pause", { mode });
}

/** Calls an admin route of a policy, and says what came of it. */
export async function run(name, doing, route, body, method = "POST") {
  if (!tokens.get("admin") && !(await askForToken("admin"))) return;
  for (;;) {
    say(name, "busy", `${doing} …`);
    try {
      const { value } = await call(method, adminPath(name, route), "admin", body ?? {});
      say(name, "good", outcome(route, value));
      return;
    } catch (error) {
      const problem = asProblem(error);
      if (problem.status !== 401) return say(name, "bad", `${doing} failed: ${problem.detail}`);
      tokens.set("admin", "");
      say(name, "bad", "The server does not accept this admin token; nothing has changed.");
      if (!(await askForToken("admin", "The server does not accept this token; nothing has changed."))) return;
    }
  }
}

function outcome(route, value) {
  if (route === "pause") return `Paused: ${value.paused === "wait" ? "requests wait" : "requests are refused"}.`;
  if (route === "resume") return "It answers again.";
  if (route === "traffic") return tried(value);
  const { version, previous, took_ms: ms } = value;
  return version === previous ? `${version} serves already.` : `${version} serves, in the place of ${previous}; it took ${took(ms / 1000)}.`;
}

function tried({ canary, shadow }) {
  const arms = [canary && `${canary.version} as the canary`, shadow && `${shadow.version} as the shadow`].filter(Boolean);
  return arms.length ? `Tried now: ${arms.join(", ")}.` : "Nothing is tried beside the active version any more.";
}

function say(name, kind, text) {
  model.notices[name] = { kind, text };
  changed();
}
