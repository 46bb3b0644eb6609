// The page: follows the server's state, and draws the view that the address names.

import { fill } from "./draw/dom.js";
import { changed, model, onChange } from "./state/model.js";
import { follow } from "./state/stream.js";
import { tokens } from "./state/tokens.js";
import { announce } from "./views/announce.js";
import { askForToken } from "./views/dialogs.js";
import { banner, header } from "./views/frame.js";
import { overview } from "./views/overview.js";
import { policyPage } from "./views/policy.js";

const parts = Object.fromEntries(["header", "banner", "main", "announcer"].map((id) => [id, document.getElementById(id)]));

/** The policy that the address names: `#/policies/NAME`; "" for the list. */
function named() {
  const found = /^#\/policies\/(.+)$/.exec(location.hash);
  try {
    return found ? decodeURIComponent(found[1]) : "";
  } catch {
    return found[1];
  }
}

function draw() {
  const focused = document.activeElement;
  const name = named();
  document.title = name ? `${name} – Policy server` : "Policy server";
  document.body.classList.toggle("lost", !model.connection.live);
  fill(parts.header, header(model));
  fill(parts.banner, banner(model));
  if (model.state) fill(parts.main, name ? policyPage(model, name) : overview(model));
  // A row that has moved to another place of the table has lost it.
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
}

function sample() {
  if (model.state && model.connection.live) model.history.add(model.now(), model.state.rates, model.state.server.policies);
  changed();
}

onChange(draw);
onChange(() => announce(model, parts.announcer));

addEventListener("hashchange", () => {
  draw();
  scrollTo(0, 0);
  parts.main.querySelector("h1")?.focus();
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  const search = document.getElementById("search");
  if (event.key !== "/" || typing || !search || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  search.focus();
});

document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // the address names the view
  parts.main.focus();
};

setInterval(sample, 1000);
draw();
follow(
  (event, data) => model.take(event, data),
  (problem) => {
    model.lose(problem);
    if (problem.status === 401) askForToken("data", tokens.get("data") && problem.detail);
  },
);
