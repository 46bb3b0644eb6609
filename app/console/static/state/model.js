// All that the page knows. Views read it; whoever changes it calls `changed`.

import { merge } from "./merge.js";
import { History } from "./history.js";

export const model = {
  /** The server's state, as `console/events` has it; null before the first one. */
  state: null,
  history: new History(),
  /** `live`; `lost` with the problem and since when (Unix seconds of this machine). */
  connection: { live: false, problem: null, since: Date.now() / 1000 },
  /** How far the server's clock is before this machine's, in seconds. */
  offset: 0,
  search: "",
  sort: { by: "", descending: false },
  /** What came of the last admin call, by policy: {kind: "good" | "bad" | "busy", text}. */
  notices: Object.create(null),

  /** The server's time, in Unix seconds. */
  now() {
    return Date.now() / 1000 + this.offset;
  },

  /** Takes an event of the stream. */
  take(event, data) {
    if (event === "state") this.offset = data.server.now - Date.now() / 1000;
    if (event === "state") {
      this.state = data;
      this.history.load(data.history ?? {});
    }
    if (event === "patch" && this.state) this.state = merge(this.state, data);
    if (event === "stop") return this.lose({ status: 0, detail: data.detail });
    this.connection = { live: true, problem: null, since: Date.now() / 1000 };
    return changed();
  },

  /** Records that there is no connection; since when stays as it was. */
  lose(problem) {
    const { live, since } = this.connection;
    this.connection = { live: false, problem, since: live ? Date.now() / 1000 : since };
    changed();
  },

  /** Swaps of one policy, or of all, the latest first. */
  swaps(policy) {
    const all = Object.entries(this.state.swaps ?? {}).map(([id, swap]) => ({ id: Number(id), ...swap }));
    return all.filter((swap) => policy === undefined || swap.policy === policy).sort((one, other) => other.id - one.id);
  },
};

const listeners = [];
let due = false;

/** Draws again, soon, however often it is called meanwhile. */
export function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const listener of listeners) listener();
  });
}

export function onChange(listener) {
  listeners.push(listener);
}
