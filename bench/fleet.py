# ruff: noqa: S603
"""What a fleet of three servers costs beside one server, and beside three that know nothing of each other.

For policies of two sizes: from the publication of a checkpoint to the first answer with it, of the last server of each
side, by turns. Then latency through HAProxy at half of the largest load, with a swap every two seconds and without, by
turns, of three servers apart and of the fleet. What three servers need without a fleet is what this machine can do:
they share its cores. redis-server and haproxy have to be there, and the machine should have nothing else to do. Exits
with 1 where a request failed or a swap was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from app import testing
from bench import BenchError
from bench.harness import command
from bench.harness.command import options_as_json, progress
from bench.harness.load import Generator, generator
from bench.harness.machine import Neighbours, machine, warning_after, warning_before
from bench.harness.server import ROOT, TOKEN, Server
from bench.swaps.checkpoints import Checkpoints
from bench.swaps.prober import Prober
from bench.swaps.run import ACTION, BODY, POLICY, UNITS
from bench.swaps.under_load import Plan, UnderLoad, measure
from saver.stderr import hushed

MEMBERS = 3
FIRST_ANSWER_RATIO, P99_RATIO = 1.5, 1.2  # that are to be reached
QUICK = {"sizes": ["small"], "swaps": 2, "rounds": 1, "phase_s": 1.0, "every_s": 0.5, "maximum_s": 0.5}
_AT_MOST_S = 60
_START_S = 120.0
# Few requests, or the probers would be what is measured: a server is busy with them for a quarter of the time at most.
_PROBE_S, _PROBE_RESTS = 0.005, 3.0
_PAUSE_S = (0.4, 0.8)


@dataclass(frozen=True)
class Side:
    """Servers to which the same is published at once; `load`: their latency behind HAProxy."""

    name: str
    servers: Sequence[Server]
    checkpoints: Checkpoints
    first_ms: list[float] = field(default_factory=list)
    load: list[UnderLoad] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Milliseconds from a publication to the first answer of the last server."""
        return statistics.median(self.first_ms)


@dataclass(frozen=True)
class Found:
    """One policy's figures; milliseconds from publication to the first answer, of each swap."""

    size: str
    megabytes: float
    one: Side
    apart: Side
    fleet: Side

    @property
    def sides(self) -> tuple[Side, ...]:
        """All three."""
        return self.one, self.apart, self.fleet

    @property
    def ratio(self) -> float:
        """Of the medians: the last member of the fleet by the one server."""
        return self.fleet.median_ms / self.one.median_ms

    @property
    def loads(self) -> list[UnderLoad]:
        """Those that were measured."""
        return [load for side in self.sides for load in side.load]

    @property
    def missed(self) -> int:
        """Swaps under load that no answer showed."""
        return sum(one.published - one.swaps for load in self.loads for one in load.rounds)


def main() -> int:
    """Measures and prints. 0: well; 1: failures, missed swaps, or nothing could be measured; 130: stopped."""
    options = _options()
    return command.run("bench.fleet", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    on = machine()
    if busy := warning_before(on):
        progress(busy)
    neighbours, found = Neighbours(), []
    with tempfile.TemporaryDirectory(prefix="bench-fleet-", dir=options.folder) as folder:
        load = generator(Path(folder), ACTION, BODY)
        for size in options.sizes:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found.append(_measured(size, Path(place), load, options))
    on["others_cores"] = round(neighbours.cores(), 2)
    _show(found, on)
    if options.json:
        figures = {"machine": on, "options": options_as_json(options), "found": [_as_json(one) for one in found]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    failures = sum(load.failures for one in found for load in one.loads)
    return 1 if failures or any(one.missed for one in found) else 0


def _measured(size: str, place: Path, load: Generator, options: argparse.Namespace) -> Found:
    progress(f"{size}: export")
    with hushed():
        from bench.harness.trainer import Trainer, q_policy_of  # here, so that --help need not wait for TensorFlow

        trainer = Trainer(q_policy_of(UNITS[size]))
        trainer.export(place / "one")
    copies = [place / f"apart-{number}" for number in range(MEMBERS)]
    for copy in (place / "fleet", *copies):
        shutil.copytree(place / "one", copy)
    with contextlib.ExitStack() as stack:
        redis = {"POLICY_SERVER_FLEET_URL": stack.enter_context(_redis())}
        folders = {
            "one server": ([place / "one"], {}),
            f"{MEMBERS} without a fleet": (copies, {}),
            f"a fleet of {MEMBERS}": ([place / "fleet"] * MEMBERS, redis),
        }
        sides = []
        for name, (served, environment) in folders.items():
            progress(f"{size}: {name}")
            servers = _started(stack, served, environment)
            ready = [folder.with_name(f"{folder.name}-ready") for folder in served]
            more = dict(zip(served, ready, strict=True))
            del more[served[0]]
            sides.append(Side(name, servers, Checkpoints(trainer, served[0], ready[0], more)))
        found = Found(size, trainer.megabytes, *sides)
        _by_turns(size, sides, options.swaps)
        found.one.servers[0].stop()
        for side in (found.apart, found.fleet) if options.rounds else ():
            with _haproxy(side.servers, place / "haproxy.log") as server:
                plan = Plan(options.rounds, options.phase_s, options.every_s, options.maximum_s, options.connections)
                note = partial(_progress_of, f"{size}, {side.name}")
                side.load.append(measure(server, side.checkpoints, load, plan, note))
    return found


def _progress_of(about: str, what: str) -> None:
    progress(f"{about}: {what}")


def _started(stack: contextlib.ExitStack, folders: Sequence[Path], environment: dict[str, str]) -> list[Server]:
    """Starts a server over each folder, all at once; the stack stops them."""
    with ThreadPoolExecutor(MEMBERS) as executor:
        starting = [
            executor.submit(_server, folder, folder.with_name(f"{folder.name}-{number}.log"), environment)
            for number, folder in enumerate(folders)
        ]
    servers = []
    for started in starting:
        servers.append(started.result())
        stack.callback(servers[-1].stop)
    for server in servers:
        server.call("GET", "/readyz")
    return servers


def _server(policy: Path, log: Path, extra: dict[str, str]) -> Server:
    environment = {"POLICY_SERVER_ADMIN_TOKEN": TOKEN} | extra
    found = testing.start({POLICY: policy}, "--watch", log=log, environment=environment, timeout_s=_START_S)
    return Server(found.url, found.admin_token, log, found.process, POLICY)


def _by_turns(size: str, sides: Sequence[Side], swaps: int) -> None:
    """Notes the milliseconds of each swap, of the last server of a side; the first does not count."""
    pauses = random.Random(0)
    for side in sides:
        side.checkpoints.prepare(swaps + 1)
    for number in range(swaps + 1):
        progress(f"{size}: swap {number} of {swaps}")
        for side in sides if number % 2 else reversed(sides):
            with contextlib.ExitStack() as stack:  # of these servers alone: the others are to have nothing to do
                asked = [Prober(one.port, ACTION, BODY, _PROBE_S, _PROBE_RESTS) for one in side.servers]
                probers = [stack.enter_context(prober) for prober in asked]
                time.sleep(pauses.uniform(*_PAUSE_S))
                name, published = side.checkpoints.publish()
                last = max(prober.first_answer(name, _AT_MOST_S) for prober in probers)
                if number:
                    side.first_ms.append(1000 * (last - published))
    for side in sides:
        side.checkpoints.prune()


@contextlib.contextmanager
def _redis() -> Iterator[str]:
    port = testing.free_port()
    words = [_program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _running(words, {}, Path(os.devnull)):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def _haproxy(members: Sequence[Server], log: Path) -> Iterator[Server]:
    """HAProxy before the members, as what is measured."""
    port = testing.free_port()
    environment = {"LISTEN": f"127.0.0.1:{port}"}
    environment |= {f"MEMBER_{number}": f"127.0.0.1:{one.port}" for number, one in enumerate(members, 1)}
    words = [_program("haproxy"), "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    with _running(words, environment, log) as process:
        server = Server(f"http://127.0.0.1:{port}", TOKEN, log, process, POLICY)
        until = time.monotonic() + _START_S
        while True:
            try:
                server.call("GET", "/readyz")
                break
            except testing.ServerFailed as error:
                if time.monotonic() > until or process.poll() is not None:
                    raise BenchError(f"haproxy: {error}; {testing.end_of(log)}") from None
                time.sleep(0.1)
        yield server


@contextlib.contextmanager
def _running(words: Sequence[str], extra: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as out,
        subprocess.Popen(
            words, env={**os.environ, **extra}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        raise BenchError(f"there is no {name}, which Debian's package of that name has")
    return found


def _show(found: Sequence[Found], on: dict[str, Any]) -> None:
    table = Table(title=f"A fleet of {MEMBERS}, in ms, on {on['processor']}", title_justify="left")
    table.add_column("policy")
    for name in ("servers", "swaps", "first answer of the last", f"by one's (≤ {FIRST_ANSWER_RATIO})"):
        table.add_column(name, justify="right")
    for name in ("rate/s", "p99", "p99 with swaps", f"ratio (≤ {P99_RATIO})", "failures"):
        table.add_column(name, justify="right")
    for one in found:
        for side in one.sides:
            policy = f"{one.size}, {one.megabytes:.2f} MB" if side is one.one else ""
            by_one = f"{side.median_ms / one.one.median_ms:.2f}"
            figures = [cell for load in side.load for cell in _cells(load)]
            table.add_row(policy, side.name, str(len(side.first_ms)), f"{side.median_ms:.1f}", by_one, *figures)
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    console.print(table)
    for line in filter(
        None, [warning_after(on), *(f"! {one.size}: {one.missed} missed" for one in found if one.missed)]
    ):
        console.print(line, markup=False, highlight=False)


def _cells(load: UnderLoad) -> list[str]:
    return [
        f"{load.rate:.0f}{'' if load.reached else ' !'}",
        f"{load.median(False, 'p99_ms'):.2f}",
        f"{load.median(True, 'p99_ms'):.2f}",
        f"{load.p99_ratio:.2f}",
        str(load.failures),
    ]


def _as_json(one: Found) -> dict[str, Any]:
    sides = {
        name: {
            "first_ms": side.first_ms,
            "load": asdict(side.load[0]) | {"p99_ratio": side.load[0].p99_ratio} if side.load else None,
        }
        for name, side in (("one", one.one), ("apart", one.apart), ("fleet", one.fleet))
    }
    return {"size": one.size, "megabytes": one.megabytes, "ratio": one.ratio, **sides}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    add = parser.add_argument
    add("--sizes", nargs="+", default=["small", "50MB"], choices=list(UNITS), metavar="SIZE", help="small, 5MB, 50MB")
    add("--swaps", type=int, default=20, help="of each side (default: %(default)s)")
    add("--rounds", type=int, default=6, help="of two phases; 0 leaves the load out (default: %(default)s)")
    add("--phase-s", type=float, default=10.0, help="seconds of each phase (default: %(default)s)")
    add("--every-s", type=float, default=2.0, help="seconds from swap to swap under load (default: %(default)s)")
    add("--maximum-s", type=float, default=5.0, help="seconds of the search for the largest load (default: 5)")
    add("--connections", type=int, default=32, help="of the load (default: %(default)s)")
    add("--folder", type=Path, help="where to write, some 2 GB (default: the system's temporary folder)")
    return command.parsed(parser, QUICK, "a short try of the small policy")


if __name__ == "__main__":
    sys.exit(main())
