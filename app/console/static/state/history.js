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

  of(name) {
    return this.#samples.get(name) ?? [];
  }
}
