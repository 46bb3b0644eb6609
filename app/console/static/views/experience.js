// What a policy's sessions have left for trainers: rows, readers, and the return of each version.

import { h } from "../draw/dom.js";
import * as format from "../draw/format.js";
import { icon } from "../draw/icons.js";

export function experience(policy) {
  const found = policy.experience;
  if (!found) return null;
  const { behind } = found;
  return h(
    "section",
    { class: "card experience" },
    h("h2", {}, "Experience"),
    h(
      "dl",
      { class: "tiles" },
      tile("Rows/s", format.rate(found.rows_per_s)),
      tile("On disk", format.bytes(found.bytes)),
      tile("Readers", format.count(behind.length)),
      behind.length > 0 && tile("Furthest behind", `${format.count(behind.at(-1))} rows`),
    ),
    found.lost_rows > 0 && h("p", { class: "notice bad" }, icon("failed"), `${format.count(found.lost_rows)} rows are gone: removed at the limit of the disk, or never written.`),
    found.returns.length > 0 && returns(found.returns),
  );
}

function tile(term, value) {
  return h("div", { class: "tile" }, h("dt", {}, term), h("dd", {}, value));
}

/** The newest version first; bars by the largest of them, where all are positive. */
function returns(rows) {
  const most = Math.max(...rows.map((row) => row.mean));
  const drawn = rows.every((row) => row.mean >= 0) && most > 0;
  return h(
    "table",
    {},
    h("caption", {}, "Mean return by version"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Version"), h("th", { scope: "col" }, "Episodes"), h("th", { scope: "col" }, "Mean return"))),
    h(
      "tbody",
      {},
      rows.map((row) =>
        h(
          "tr",
          { key: row.version },
          h("th", { scope: "row", class: "code" }, row.version),
          h("td", {}, format.count(row.episodes)),
          h("td", {}, drawn && bar(row.mean / most), format.value(row.mean)),
        ),
      ),
    ),
  );
}

function bar(share) {
  return h(
    "svg",
    { class: "return-bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    h("rect", { width: Math.max(0.8, 100 * share), height: 8 }),
  );
}
