// Dialogs: the browser's own, which keep the focus inside and close by Escape.

import { build, h } from "../draw/dom.js";
import { icon } from "../draw/icons.js";
import { changed } from "../state/model.js";
import { tokens } from "../state/tokens.js";

const TOKENS = {
  admin: ["Admin token", "POLICY_SERVER_ADMIN_TOKEN", "Reload, roll back, pause, resume and trials need it."],
  data: ["Data token", "POLICY_SERVER_DATA_TOKEN", "This server asks for it before it shows or answers anything."],
};
let open = null;

/** Shows a dialog with these children; resolves with what `close` was called with, or null. */
function show(title, content) {
  if (open) open.close();
  return new Promise((resolve) => {
    let result = null;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const dialog = build(h("dialog", { "aria-label": title }, h("h2", {}, title), content(close)));
    open = dialog;
    dialog.onclose = () => {
      open = null;
      dialog.remove();
      resolve(result);
    };
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Asks for a token and keeps it for this tab; `wrong` says why it is asked for again. Resolves with whether one was given. */
export async function askForToken(kind, wrong) {
  const [title, variable, purpose] = TOKENS[kind];
  const token = await show(title, (close) =>
    h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          close(event.target.elements.token.value.trim());
        },
      },
      wrong && h("p", { class: "notice bad", role: "alert" }, icon("refused"), wrong),
      h("p", {}, purpose, " The server was started with it, in ", h("code", {}, variable), ". It is kept until this tab is closed."),
      h("label", { for: "token" }, "Token"),
      h("input", { id: "token", name: "token", type: "password", autocomplete: "off", required: true, autofocus: true }),
      buttons(close, "Use it"),
    ),
  );
  if (token) tokens.set(kind, token);
  changed();
  return Boolean(token);
}

/** Asks what to do with requests meanwhile; resolves with "wait", "reject" or null. */
export function askForPause(policy) {
  const choice = (value, title, text) =>
    h("label", { class: "choice" }, h("input", { type: "radio", name: "mode", value, checked: value === "wait" }), h("span", {}, h("strong", {}, title), text));
  return show(`Pause ${policy}`, (close) =>
    h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          close(event.target.elements.mode.value);
        },
      },
      h("p", {}, "No request is answered until you resume. Swaps go on."),
      choice("wait", "Hold requests", "They wait until their deadline, then get 504."),
      choice("reject", "Refuse requests", "They get 503 at once."),
      buttons(close, "Pause"),
    ),
  );
}

/** Asks how a version is to be tried; resolves with an arm as `PUT …/traffic` takes it, or null. */
export function askForTrial(version) {
  const number = (name, title, more) =>
    h("div", { class: "option" }, h("label", { for: name }, title), h("input", { id: name, name, type: "number", step: "any", ...more }));
  const choice = (value, title, text) =>
    h("label", { class: "choice" }, h("input", { type: "radio", name: "arm", value, checked: value === "canary" }), h("span", {}, h("strong", {}, title), text));
  return show(`Try ${version}`, (close) =>
    h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          close(trialOf(version, event.target.elements));
        },
      },
      choice("canary", "Canary", "It answers a share of the sessions that begin."),
      choice("shadow", "Shadow", "It is asked what the active version is asked, and answers nobody."),
      h(
        "div",
        { class: "options" },
        number("share", "Share, %", { value: 10, min: 0, max: 100, required: true }),
        number("drop", "Stop if its return drops by, %", { min: 0, placeholder: "never" }),
        number("episodes", "Promote after episodes", { min: 1, step: 1, placeholder: "by hand" }),
      ),
      buttons(close, "Try it"),
    ),
  );
}

function trialOf(version, { arm, share, drop, episodes }) {
  const asked = { checkpoint: version, share: Number(share.value) / 100 };
  if (arm.value === "canary" && drop.value) asked.stop_if_return_drops = Number(drop.value) / 100;
  if (arm.value === "canary" && episodes.value) asked.promote_after_episodes = Number(episodes.value);
  return { [arm.value]: asked };
}

function buttons(close, action) {
  return h(
    "div",
    { class: "buttons" },
    h("button", { type: "submit", class: "primary" }, action),
    h("button", { type: "button", onclick: () => close(null) }, "Cancel"),
  );
}
