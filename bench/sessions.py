"""What sessions cost, and the client.

A step beside a request without a session, a vector of CartPoles through the client beside bare `httpx.Client.post`, the
refusal of one session too many, and the memory of all that may be. By turns on one machine, which should have nothing
else to do; read the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np

from bench import BenchError
from bench.harness import command
from bench.harness.command import progress
from bench.harness.figures import Found, report
from bench.harness.load import Generator, compiled, request_bytes
from bench.harness.server import Server, serving
from bench.serving import usage
from bench.serving.exports import RECURRENT, SMALL, Exports
from policy_client import RemotePolicy
from policy_client.fields import StepFields
from policy_client.gymnasium import VectorPolicy
from policy_client.wire import MEDIA_TYPE, encode

ROW = {"observation": [0.1, -0.2, 0.3, -0.4]}
ENVIRONMENTS = 64
QUICK = {"rounds": 1, "seconds": 0.2, "sessions": 50, "refusals": 20}


def main() -> int:
    """Measures and prints. 0: well; 1: nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.sessions", lambda: report("bench-sessions", options, _measured))


def _measured(options: argparse.Namespace, folder: Path) -> Iterator[Found]:
    exports = Exports(options.exports or folder, progress)
    exports.make([SMALL, RECURRENT])
    policies = exports.policies(SMALL) | exports.policies(RECURRENT)
    # Beside those that fill the room, some that are stepped.
    limit = options.sessions + 8
    with serving(
        policies, folder / "log", ["--no-watch", "--sessions-limit", str(limit), "--sessions-per-client", str(limit)]
    ) as server:
        program = compiled(folder)
        for policy in (SMALL, RECURRENT):
            progress(f"a step of a session: {policy}")
            yield from _step_beside_action(server, policy, folder, program, options)
        progress(f"a vector of {ENVIRONMENTS} CartPoles")
        yield from _vector_beside_post(server, options)
        progress(f"{options.sessions} sessions, and more than may be")
        yield from _room(server, limit, options)


def _step_beside_action(
    server: Server, policy: str, folder: Path, program: Path, options: argparse.Namespace
) -> Iterator[Found]:
    root = f"/v1/policies/{policy}"
    server.call("POST", f"{root}/sessions", json.dumps({"id": f"bench-{policy}", **ROW}).encode())
    generators = []
    for name, path in (("action", "action"), ("step", f"sessions/bench-{policy}/action")):
        request = folder / f"{policy}-{name}"
        request.write_bytes(request_bytes(f"{root}/{path}", json.dumps(ROW).encode()))
        generators.append(Generator(program, (request,)))

    def p50_us(generator: Generator) -> float:
        answers = generator.run(server.port, options.seconds, 1)
        if answers.failures:
            raise BenchError(f"{answers.failures} requests failed: {answers.statuses}")
        return answers.p50_ms * 1000

    action, step = _by_turns(options.rounds, *(lambda one=one: p50_us(one) for one in generators))
    yield Found(f"{policy}: request without a session, p50, µs", statistics.median(action))
    yield Found(f"{policy}: step of a session, p50, µs", statistics.median(step))
    ratio = _ratio(step, action)
    yield Found("… by the request's", ratio, "at most 1.3", ratio <= 1.3)


def _vector_beside_post(server: Server, options: argparse.Namespace) -> Iterator[Found]:
    url = f"http://127.0.0.1:{server.port}"
    observation = np.zeros((ENVIRONMENTS, 4), np.float32)
    # What a vector sends in which some episodes end with each step, as they do in CartPole.
    floats = np.ones(ENVIRONMENTS, np.float32)
    fields: StepFields = {"reward": floats, "discount": floats, "step_type": np.ones(ENVIRONMENTS, np.int32)}
    body = encode({"observation": observation, **fields})
    headers = {"Content-Type": MEDIA_TYPE}
    with contextlib.ExitStack() as stack:
        policy = stack.enter_context(RemotePolicy(url, SMALL))
        envs = gymnasium.make_vec("CartPole-v1", ENVIRONMENTS)
        stack.callback(envs.close)
        played = stack.enter_context(VectorPolicy(policy, envs, reset_seed=0))
        session = stack.enter_context(policy.session(observation))
        bare = stack.enter_context(httpx.Client(trust_env=False))
        bare.post(f"{url}/v1/policies/{SMALL}/sessions", json={"id": "bare", "observation": observation.tolist()})
        path = f"{url}/v1/policies/{SMALL}/sessions/bare/action"

        def post() -> None:
            bare.post(path, content=body, headers=headers).raise_for_status()

        calls = (post, lambda: session.step(observation, **fields), played.step)
        posted, stepped, vector = _by_turns(
            options.rounds, *(lambda call=call: _rows_a_second(call, options.seconds) for call in calls)
        )
    yield Found("bare httpx.Client.post: rows/s", statistics.median(posted))
    for what, samples in (("the client's step", stepped), ("64 CartPoles, which are stepped too", vector)):
        yield Found(f"{what}: rows/s", statistics.median(samples))
        ratio = _ratio(samples, posted)
        yield Found("… by the bare post's", ratio, "at least 0.8", ratio >= 0.8)


def _room(server: Server, limit: int, options: argparse.Namespace) -> Iterator[Found]:
    root = f"/v1/policies/{RECURRENT}/sessions"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def asked(method: str, path: str, body: Any = None) -> int:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def resident_mb() -> float:
        return usage.resident_mb(usage.running_module(usage.family(server.pid), "app.worker"))

    with contextlib.closing(connection):
        for number in range(200):  # what grows once
            asked("POST", root, {"id": f"warm-{number}", **ROW})
            asked("DELETE", f"{root}/warm-{number}")
        before = resident_mb()
        names = [f"room-{number}" for number in range(limit)]
        statuses = [asked("POST", root, {"id": name, **ROW}) for name in names]
        filled = resident_mb()
        refused = []
        for _ in range(options.refusals):
            began = time.perf_counter()
            status = asked("POST", root, {"id": "beyond", **ROW})
            refused.append((time.perf_counter() - began) * 1000)
            if status != 429:
                raise BenchError(f"one session too many was answered {status}")
        opened = [name for name, status in zip(names, statuses, strict=True) if status == 201]
        for name in opened:
            asked("DELETE", f"{root}/{name}")
        for name in opened:
            asked("POST", root, {"id": name, **ROW})
        again = resident_mb()
    p99 = float(np.percentile(refused, 99))
    yield Found("one session too many: p50 of its 429, ms", statistics.median(refused))
    yield Found("… p99, ms", p99, "at most 5", p99 <= 5)
    yield Found("memory for each session, KB", (filled - before) * 1000 / max(1, len(opened)))
    yield Found("memory when all have ended and as many have begun, by that before", again / filled)


def _by_turns(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """So many samples of each; who comes first changes each round."""
    for measure in measures:
        measure()  # warm
    samples: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        order = list(zip(measures, samples, strict=True))
        for measure, found in order if number % 2 == 0 else reversed(order):
            found.append(measure())
    return samples


def _rows_a_second(call: Callable[[], Any], seconds: float) -> float:
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        call()
        count += 1
    return count * ENVIRONMENTS / spent


def _ratio(these: list[float], those: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(these, those, strict=True))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sessions", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="in which everybody has a turn (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="of a turn (default: %(default)s)")
    add("--sessions", type=int, default=10_000, help="that may be open at once (default: %(default)s)")
    add("--refusals", type=int, default=1000, help="of one session too many (default: %(default)s)")
    add("--exports", type=Path, help="where the policies lie, or are made (default: a temporary folder)")
    return command.parsed(parser, QUICK)


if __name__ == "__main__":
    sys.exit(main())
