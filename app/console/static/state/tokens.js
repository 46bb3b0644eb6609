// The two bearer tokens, kept for this tab alone: they are gone when it is closed.

const waiting = { admin: [], data: [] };

export const tokens = {
  get(kind) {
    return sessionStorage.getItem(`${kind}-token`) ?? "";
  },

  set(kind, token) {
    if (token) sessionStorage.setItem(`${kind}-token`, token);
    else sessionStorage.removeItem(`${kind}-token`);
    for (const resolve of waiting[kind].splice(0)) resolve();
  },

  /** Headers with the token, where there is one. */
  header(kind) {
    const token = this.get(kind);
    return token ? { Authorization: `Bearer ${token}` } : {};
  },

  /** Resolves when another token is set. */
  changed(kind) {
    return new Promise((resolve) => waiting[kind].push(resolve));
  },
};
