// The list of policies, with what the whole server does.

import { chart, sparkline } from "../draw/chart.js";
import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";
import { badge, stateChip, stateOf } from "../draw/states.js";
import { changed } from "../state/model.js";
import { noPolicies, nothingReady } from "./empty.js";
import { sessions } from "./sessions.js";
import { audit, fleet } from "./side.js";
import { marks, swapLog } from "./swaps.js";

const COLUMNS = [
  ["name", "Policy", "wide"],
  ["state", "State", ""],
  ["version", "Version", "from-medium"],
  ["train_step", "Train step", "number from-medium"],
  ["engine", "Engine", "from-wide"],
  ["answers_per_s", "Answers/s", "number"],
  ["p50_ms", "p50", "number from-wide"],
  ["p99_ms", "p99", "number from-small"],
];

export function overview(model) {
  const { server, policies } = model.state;
  const rows = server.policies.map((name) => rowOf(model, name));
  if (!rows.length) return [h("h1", { tabindex: -1 }, "Policies"), noPolicies()];
  const nothing = !Object.values(policies).some((policy) => policy.ready);
  return [
    h("h1", { class: "unseen", tabindex: -1 }, "Policies"),
    nothing && nothingReady(rows),
    tiles(model, rows),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "main-column" }, !nothing && h("section", { class: "card" }, total(model, rows)), policyTable(model, rows)),
      h("div", { class: "side-column" }, swapLog(model, model.swaps().slice(0, 8), { named: true }), sessions(model), fleet(model), audit(model)),
    ),
  ];
}

function rowOf({ state }, name) {
  const policy = state.policies[name] ?? { ready: false, reason: "" };
  return { name, policy, state: stateOf(policy), ...policy, ...(state.rates[name] ?? {}) };
}

function tiles(model, rows) {
  const { server, rates } = model.state;
  const sum = (field) => Object.values(rates).reduce((total, one) => total + (one[field] ?? 0), 0);
  const ready = rows.filter((row) => row.policy.ready).length;
  const errors = sum("errors_per_s");
  return h(
    "dl",
    { class: "tiles" },
    tile("Policies ready", `${ready} of ${rows.length}`, ready < rows.length && "bad"),
    tile("Answers/s", format.rate(sum("answers_per_s"))),
    tile("Errors/s", format.rate(errors), errors > 0 && "bad"),
    server.sessions !== undefined && tile("Sessions", format.count(server.sessions)),
    tile("Workers", server.workers === server.workers_wanted ? server.workers : `${server.workers} of ${server.workers_wanted}`, server.workers < server.workers_wanted && "bad"),
    tile("Memory", format.bytes(server.memory_bytes)),
    server.restarts > 0 && tile("Restarts", format.count(server.restarts), "bad"),
  );
}

function tile(name, value, kind) {
  return h("div", { class: kind ? `tile ${kind}` : "tile" }, h("dt", {}, name), h("dd", {}, kind === "bad" && icon("failed", "attention"), value));
}

function policyTable(model, rows) {
  const shown = sorted(rows.filter((row) => matches(row, model.search)), model.sort);
  return h(
    "section",
    { class: "card" },
    h("div", { class: "card-head" }, h("h2", {}, "Policies"), rows.length > 5 && searchField(model, shown.length, rows.length)),
    h(
      "table",
      { class: "policies" },
      h("thead", {}, h("tr", {}, COLUMNS.map((column) => heading(model, column)))),
      h("tbody", {}, shown.map((row) => tableRow(model, row))),
    ),
    !shown.length && h("p", { class: "nothing" }, `No policy matches “${model.search}”.`),
  );
}

function searchField(model, shown, all) {
  return h(
    "div",
    { class: "search" },
    icon("search"),
    h("input", {
      id: "search",
      type: "search",
      placeholder: "Search: name, version, state …",
      title: "The key / goes here",
      "aria-label": "Search policies",
      value: model.search,
      oninput: (event) => {
        model.search = event.target.value;
        changed();
      },
    }),
    h("span", { class: "fact", role: "status" }, shown === all ? `${all}` : `${shown} of ${all}`),
  );
}

function matches(row, search) {
  const text = `${row.name} ${row.version ?? ""} ${row.engine ?? ""} ${row.state} ${row.pinned ? "pinned" : ""}`.toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function sorted(rows, { by, descending }) {
  if (!by) return rows;
  const key = (row) => row[by] ?? (by === "name" || by === "state" || by === "version" || by === "engine" ? "" : -1);
  const compare = (one, other) => (typeof key(one) === "string" ? String(key(one)).localeCompare(String(key(other)), "en", { numeric: true }) : key(one) - key(other));
  return [...rows].sort((one, other) => (descending ? -compare(one, other) : compare(one, other)));
}

function heading(model, [field, title, kind]) {
  const { by, descending } = model.sort;
  const direction = by === field ? (descending ? "descending" : "ascending") : undefined;
  const sort = () => {
    const numbers = kind.includes("number");
    if (by !== field) model.sort = { by: field, descending: numbers };
    else model.sort = descending === numbers ? { by: field, descending: !numbers } : { by: "", descending: false };
    changed();
  };
  const arrow = direction ? h("span", { class: "arrow", "aria-hidden": "true" }, descending ? "↓" : "↑") : null;
  return h("th", { class: kind, scope: "col", "aria-sort": direction }, h("button", { class: "sort", onclick: sort }, title, arrow));
}

function tableRow(model, row) {
  const samples = model.history.of(row.name);
  return h(
    "tr",
    { key: row.name, class: `row-${row.state}` },
    h(
      "th",
      { scope: "row", class: "wide" },
      h("span", { class: "name" }, h("a", { href: `#/policies/${encodeURIComponent(row.name)}` }, row.name)),
      model.state.server.policies[0] === row.name && h("span", { class: "default", title: "The policy that /action asks" }, "default"),
      h("span", { class: "below" }, row.policy.ready ? `${row.version} · step ${format.step(row.train_step)}` : row.policy.reason),
    ),
    h("td", {}, stateChip(row.state, row.policy.reason), row.pinned && badge("pinned", "pinned", `An operator holds it at ${row.pinned}`)),
    h("td", { class: "from-medium code" }, row.version || format.NONE),
    h("td", { class: "number from-medium" }, format.step(row.train_step)),
    h("td", { class: "from-wide" }, row.engine || format.NONE),
    h("td", { class: "number rate" }, sparkline(samples, "answers_per_s", model.now()), h("span", {}, format.rate(row.answers_per_s ?? (row.policy.ready ? 0 : undefined)))),
    h("td", { class: "number from-wide" }, format.ms(row.p50_ms)),
    h("td", { class: "number from-small" }, format.ms(row.p99_ms)),
  );
}

function total(model, rows) {
  const all = new Map();
  for (const { name } of rows) {
    for (const one of model.history.of(name)) all.set(one.at, (all.get(one.at) ?? 0) + one.answers_per_s);
  }
  return chart({
    label: "Answers a second, all policies",
    samples: [...all].map(([at, answers]) => ({ at, answers })),
    lines: [{ field: "answers", name: "answers/s", className: "answers", fill: true }],
    swaps: marks(model.swaps()),
    now: model.now(),
    format: format.rate,
  });
}
