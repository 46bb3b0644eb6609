// What the page has seen of rates: one sample a second and policy, for the last minutes.

const MOST = 310;

export class History {
  #samples = new Map();

  /** Adds the rates of a moment; a policy without any has a rate of 0. */
  add(at, rates, names) {
    for (const name of names) {
      const kept = this.of(name);
      if (!this.#samples.has(name)) this.#samples.set(name, kept);
      kept.push({ at, ...(rates[name] ?? { answers_per_s: 0 }) });
      if (kept.length > MOST) kept.shift();
    }
  }

  /** Takes what the server has kept, where this page has nothing: rows of [at, answers/s, p50, p99] by policy. */
  load(history) {
    for (const [name, rows] of Object.entries(history)) {
      if (this.#samples.has(name)) continue;
      this.#samples.set(name, rows.map(([at, answers, p50, p99]) => ({ at, answers_per_s: answers, p50_ms: p50 ?? undefined, p99_ms: p99 ?? undefined })));
    }
  }

  of(name) {
    return this.#samples.get(name) ?? [];
  }
}
