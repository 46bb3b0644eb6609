// Three ways to ask: once; with the policy state carried along by this page; in a session of the server.

import { call, policyPath } from "../state/api.js";

export class Asking {
  /** The body and path of the last request, for curl. */
  last = null;
  #state;
  #session = null;
  step = 0;

  constructor(name, describes) {
    this.name = name;
    this.describes = describes;
    this.way = this.recurrent ? "session" : "once";
  }

  get recurrent() {
    return !isEmpty(this.describes.specs.state);
  }

  /** Whether an episode has been started, which the next request goes on with. */
  get underWay() {
    return this.#session !== null || this.#state !== undefined;
  }

  /** Asks for an action and, where there is one and it can be asked alike, its distribution. */
  async ask(fields, options) {
    const { way } = this;
    if (way === "session") return this.#inSession(fields, options);
    const body = { ...fields };
    if (way === "state" && this.#state !== undefined) body.policy_state = this.#state;
    const found = await this.#post("/action", withOptions(body, options));
    const distribution = await this.#distribution(body);
    if (way === "state") {
      this.#state = found.answer.policy_state;
      this.step += 1;
    }
    return { ...found, distribution, note: way === "state" ? `step ${this.step - 1}; its policy state goes with the next one` : undefined };
  }

  /** Starts over: the next request starts an episode. */
  async restart() {
    this.#state = undefined;
    this.step = 0;
    const session = this.#session;
    this.#session = null;
    if (session) await call("DELETE", policyPath(this.name, `/sessions/${encodeURIComponent(session)}`), "data").catch(() => undefined);
  }

  async #inSession(fields, options) {
    const started = this.#session !== null;
    const path = started ? `/sessions/${encodeURIComponent(this.#session)}/action` : "/sessions";
    const body = withOptions(fields, options);
    if (started) body.step = this.step + 1;
    try {
      const found = await this.#post(path, body);
      this.#session ??= found.answer.id;
      this.step = found.answer.step;
      return { ...found, note: `step ${this.step} of session ${this.#session}` };
    } catch (problem) {
      if (problem.status === 404) this.#session = null;
      throw problem;
    }
  }

  async #distribution(body) {
    if (this.describes.distributions?.unavailable) return undefined;
    const { value } = await call("POST", policyPath(this.name, "/distribution"), "data", body);
    return value.distribution;
  }

  async #post(rest, body) {
    const path = policyPath(this.name, rest);
    this.last = { path, body };
    const { value, text, tookMs } = await call("POST", path, "data", body);
    return { answer: value, text, tookMs };
  }
}

function withOptions(body, options) {
  return Object.keys(options).length ? { ...body, options } : { ...body };
}

function isEmpty(nest) {
  return nest.list?.length === 0 || (nest.dict !== undefined && !Object.keys(nest.dict).length);
}
