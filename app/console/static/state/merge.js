// JSON merge patches (RFC 7396): null removes a member, objects are merged, all else is replaced.

export function merge(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const kept = target !== null && typeof target === "object" && !Array.isArray(target) ? target : {};
  const merged = Object.assign(Object.create(null), kept); // a policy may be called "constructor"
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete merged[name];
    else merged[name] = merge(merged[name], value);
  }
  return merged;
}
