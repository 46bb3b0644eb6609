// A CartPole in JavaScript: Node 18 or newer, Deno, Bun or a browser; nothing to install.
//
//     node examples/simulator.mjs http://localhost:8000 cartpole 500

const [url = "http://localhost:8000", policy = "cartpole", steps = "500"] = process.argv.slice(2);
const sessions = `${url}/v1/policies/${policy}/sessions`;

// Every request tells its run and its step, so that it may be sent again when the connection breaks.
async function ask(method, address, body) {
  const request = { method, headers: { "Content-Type": "application/json" }, body: body && JSON.stringify(body) };
  const send = async () => {
    const response = await fetch(address, { ...request, signal: AbortSignal.timeout(10_000) });
    return [response.status, await response.text()];
  };
  const [status, content] = await send().catch(send);
  if (method === "DELETE" && status === 404) return null; // it has ended already, by the request before
  if (status >= 300) throw new Error(`${status}: ${content}`);
  return content ? JSON.parse(content) : null;
}

// x, its velocity, the pole's angle, its velocity.
const begin = () => Array.from({ length: 4 }, () => Math.random() * 0.1 - 0.05);
const fallen = ([x, , angle]) => Math.abs(x) > 2.4 || Math.abs(angle) > 0.2095;

function move([x, speed, angle, spin], action) {
  const force = action === 1 ? 10 : -10;
  const push = (force + 0.05 * spin * spin * Math.sin(angle)) / 1.1;
  const turn = (9.8 * Math.sin(angle) - Math.cos(angle) * push) / (0.5 * (4 / 3 - (0.1 * Math.cos(angle) ** 2) / 1.1));
  const pull = push - (0.05 * turn * Math.cos(angle)) / 1.1;
  return [x + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * spin, spin + 0.02 * turn];
}

let state = begin();
let episodes = 0;
let over = false;
const run_id = crypto.randomUUID();
const id = `simulator-${run_id}`;
let answer = await ask("POST", sessions, { id, run_id, observation: state });
for (let step = 1; step <= Number(steps); step++) {
  const first = over;
  state = first ? begin() : move(state, answer.action);
  over = fallen(state);
  episodes += over;
  const outcome = { reward: first ? 0 : 1, discount: over ? 0 : 1, first };
  answer = await ask("POST", `${sessions}/${id}/action`, { step, run_id, observation: state, ...outcome });
}
await ask("DELETE", `${sessions}/${id}?run_id=${run_id}`);
console.log(`${answer.step} steps, ${episodes} episodes, weights ${answer.version}`);
