// Calls of the server's JSON routes. All addresses are relative to the page, which may be behind a prefix.

import { tokens } from "./tokens.js";

/** What the server refused, or why it could not be asked: `status` is 0 then. */
export class Problem extends Error {
  constructor(status, detail, errors = [], retryAfter = 0) {
    super(detail);
    Object.assign(this, { status, detail, errors, retryAfter });
  }
}

/** Sends a request, with a JSON body where there is one; returns `{value, tookMs}`; throws a Problem. */
export async function call(method, path, kind, body) {
  const started = performance.now();
  const headers = { ...tokens.header(kind) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Problem(0, "the server cannot be reached");
  }
  const text = await response.text();
  const tookMs = performance.now() - started;
  if (!response.ok) throw problemOf(response, text);
  return { value: text ? JSON.parse(text) : null, text, tookMs };
}

/** Turns whatever was thrown into a Problem. */
export function asProblem(thrown) {
  return thrown instanceof Problem ? thrown : new Problem(0, "the server cannot be reached");
}

export function problemOf(response, text) {
  let said = {};
  try {
    said = JSON.parse(text);
  } catch {
    // what a proxy answers may be anything
  }
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  return new Problem(response.status, said.detail ?? `HTTP ${response.status}`, said.errors ?? [], retryAfter);
}

export function policyPath(name, rest = "") {
  return `v1/policies/${encodeURIComponent(name)}${rest}`;
}

export function adminPath(name, rest) {
  return `admin/policies/${encodeURIComponent(name)}/${rest}`;
}
