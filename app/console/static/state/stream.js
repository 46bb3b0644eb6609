// The connection to `console/events`: opened again when it ends, and when nothing comes for too long.

import { asProblem, problemOf } from "./api.js";
import { readEvents } from "./events.js";
import { tokens } from "./tokens.js";

const SILENCE_MS = 12000;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 5000;

/** Calls `take(event, data)` for what comes, and `lost(problem)` each time there is no connection; never ends. */
export async function follow(take, lost) {
  let wait = FIRST_WAIT_MS;
  for (;;) {
    try {
      await listen((event, data) => {
        wait = FIRST_WAIT_MS;
        take(event, data);
      });
      lost({ status: 0, detail: "the connection has ended" });
    } catch (error) {
      const problem = asProblem(error);
      lost(problem);
      if (problem.status === 401) {
        await tokens.changed("data");
        continue;
      }
      wait = Math.max(wait, 1000 * (problem.retryAfter ?? 0));
    }
    await pause(wait * (0.8 + 0.4 * Math.random()));
    wait = Math.min(1.5 * wait, LONGEST_WAIT_MS);
  }
}

async function listen(take) {
  const abort = new AbortController();
  let timer = 0;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => abort.abort(), SILENCE_MS);
  };
  alive();
  try {
    const response = await fetch("console/events", {
      headers: tokens.header("data"),
      cache: "no-store",
      signal: abort.signal,
    });
    if (!response.ok) throw problemOf(response, await response.text());
    await readEvents(response.body, take, alive);
  } finally {
    clearTimeout(timer);
    abort.abort();
  }
}

/** Waits; less where the page comes back into view or the network is there again. */
function pause(duration) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      document.removeEventListener("visibilitychange", end);
      resolve();
    };
    const timer = setTimeout(end, duration);
    addEventListener("online", end);
    document.addEventListener("visibilitychange", end);
  });
}
