"""A competitor and a scenario → a server that answers, until the stack that it is entered into is left."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from bench import BenchError
from bench.load import Generator, request_bytes
from bench.server import free_port, serving, started, wait_until_ready
from bench.serving import exports
from bench.serving.exchanges import Exchange, exchange
from bench.serving.exports import Exports
from bench.serving.scenarios import WAITING_ROOM, Competitor, Kind, Scenario
from bench.serving.stock import Stock
from bench.serving.targets import Direct, Loaded, Overloaded, Swapped
from bench.swaps.checkpoints import Checkpoints

_OPTIONS = {exports.SLOW: ["--waiting-room-requests", str(WAITING_ROOM)]}
_CALL_S = 60


@dataclass(frozen=True)
class Running:
    """A server: its port, the process that was started (0: there is none), and the paths that are asked by turns."""

    port: int = 0
    pid: int = 0
    paths: tuple[str, ...] = ()
    publish: Callable[[], object] | None = None


@dataclass
class Launcher:
    """Starts whoever takes part, each once; `stack` ends them. Files go to `folder`."""

    exports: Exports
    program: Path
    folder: Path
    stack: ExitStack
    running: dict[tuple[str, ...], Running] = field(default_factory=dict)

    def target(self, competitor: Competitor, scenario: Scenario) -> Direct | Loaded:
        """What can be measured; the server is started where it does not run yet.

        Raises:
          BenchError: it cannot be started, or does not answer this.
        """
        asked = exchange(scenario.exchange)
        if competitor.kind is Kind.DIRECT:
            return Direct(self.exports.compiled(scenario.policy), asked.rows)
        running = self._running(competitor, scenario)
        for path in running.paths:
            check_answer(running.port, path, asked)
        generator = Generator(self.program, self._requests(running.paths, scenario.exchange))
        loaded = (generator, running.port, running.pid, scenario.clients)
        if running.publish:
            return Swapped(*loaded, running.publish)
        return Overloaded(*loaded) if scenario.overload else Loaded(*loaded)

    def _running(self, competitor: Competitor, scenario: Scenario) -> Running:
        """An echo answers one kind of request; everybody else all of a policy's."""
        key = (competitor.name, scenario.exchange if competitor.kind is Kind.ECHO else "")
        if key not in self.running:
            start = {Kind.ECHO: self._echo, Kind.NAIVE: self._naive, Kind.OURS: self._ours}[competitor.kind]
            self.running[key] = start(competitor, scenario)
        return self.running[key]

    def _echo(self, _: Competitor, scenario: Scenario) -> Running:
        asked = exchange(scenario.exchange)
        answer = self.folder / f"answer-{scenario.exchange}"
        answer.write_bytes(asked.answer)
        return self._module("bench.serving.echo", str(answer), asked.media_type)

    def _naive(self, _: Competitor, scenario: Scenario) -> Running:
        (folder,) = self.exports.policies(scenario.policy).values()
        return self._module("bench.serving.naive", str(folder))

    def _ours(self, competitor: Competitor, scenario: Scenario) -> Running:
        policies = self.exports.policies(scenario.policy, competitor.policies)
        checkpoints = None
        if competitor.swapped:
            copy = self.exports.copied(scenario.policy, self.folder / competitor.name)
            policies = {scenario.policy: copy}
            stock = Stock(self.exports.folder / scenario.policy / exports.READY)
            checkpoints = Checkpoints(stock, copy, self.folder / f"{competitor.name}-ready")
            checkpoints.prepare(stock.count)
        options = [
            "--engine",
            competitor.engine,
            "--workers",
            str(competitor.workers),
            *_OPTIONS.get(scenario.policy, []),
        ]
        server = self.stack.enter_context(serving(policies, self._log(competitor.name), options))
        asked = list(policies) if competitor.spread else [server.policy]
        paths = tuple(f"/v1/policies/{name}/action" for name in asked)
        return Running(server.port, server.pid, paths, checkpoints.publish if checkpoints else None)

    def _module(self, module: str, *words: str) -> Running:
        """A Python module that takes its port first, and answers `/action`."""
        port, log = free_port(), self._log(module)
        process = self.stack.enter_context(started([sys.executable, "-m", module, str(port), *words], log, {}))
        wait_until_ready(process, log, lambda: is_listening(port))
        return Running(port, process.pid, ("/action",))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}-{len(self.running)}.log"

    def _requests(self, paths: tuple[str, ...], name: str) -> tuple[Path, ...]:
        asked, files = exchange(name), []
        for number, path in enumerate(paths):
            files.append(self.folder / f"{name}-{path.strip('/').replace('/', '-')}-{number}")
            files[-1].write_bytes(request_bytes(path, asked.body, asked.media_type))
        return tuple(files)


def is_listening(port: int) -> bool:
    """Whether somebody answers there, whatever.

    Raises:
      BenchError: nobody does.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_S)) as connection:
        try:
            connection.request("GET", "/")
            return connection.getresponse().status > 0
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(str(error)) from None


def check_answer(port: int, path: str, asked: Exchange) -> bytes:
    """One request, which has to be answered well; the answer.

    Raises:
      BenchError: it is not.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_S)) as connection:
        try:
            connection.request("POST", path, asked.body, {"Content-Type": asked.media_type})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"POST {path}: {error or type(error).__name__}") from None
    if response.status // 100 != 2:
        raise BenchError(f"answers {response.status}: {answer[:200].decode(errors='replace')}")
    return answer
