"""A competitor and a scenario → a server that runs, until the stack that it is entered into is left."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from app.testing import free_port
from bench import BenchError
from bench.harness.server import ROOT, serving, started, wait_until_ready
from bench.serving import exports, nginx, peers, usage
from bench.serving.calls import accepts, check_answer, is_listening
from bench.serving.exports import Exports
from bench.serving.in_process import compiled_in
from bench.serving.payloads import GRPC, GRPC_METHOD, payload
from bench.serving.peers.environments import python_of
from bench.serving.peers.table import MODEL, PEERS, Peer
from bench.serving.prewritten import Prewritten
from bench.serving.scenarios import QUEUE_LIMIT, Competitor, Kind, Scenario
from bench.swaps.checkpoints import Checkpoints

_OPTIONS = {exports.SLOW: ("--queue-limit-requests", str(QUEUE_LIMIT))}


@dataclass(frozen=True)
class Running:
    """A server: its port, the process that was started, the paths that may be asked, what publishes a checkpoint."""

    port: int
    pid: int
    paths: tuple[str, ...]
    publish: Callable[[], object] | None = None


@dataclass(frozen=True)
class Starter:
    """Files of the servers go to `folder`; `stack` ends them. `before` is the source tree of the earlier revision."""

    exports: Exports
    folder: Path
    stack: ExitStack
    environments: Path | None = None  # of the peers
    before: Path | None = None

    def start(self, competitor: Competitor, scenario: Scenario) -> Running:
        """Returns when it answers.

        Raises:
          BenchError: it does not start.
        """
        if competitor.kind is Kind.ECHO:
            return self._grpc_echo() if competitor.protocol else self._constant("bench.serving.echo", scenario)
        if competitor.kind is Kind.RAW:
            return self._constant("bench.serving.raw", scenario)
        if competitor.kind is Kind.NGINX:
            return self._nginx(scenario)
        if competitor.kind is Kind.NAIVE:
            (folder,) = self.exports.policies(scenario.policy).values()
            return self._module("bench.serving.naive", str(folder))
        if competitor.kind is Kind.PEER:
            return self._peer(PEERS[competitor.name], scenario)
        return self._ours(competitor, scenario)

    def _constant(self, module: str, scenario: Scenario) -> Running:
        asked = payload(scenario.payload)
        answer = self.folder / f"answer-{scenario.payload}"
        answer.write_bytes(asked.answer)
        return self._module(module, str(answer), asked.media_type)

    def _nginx(self, scenario: Scenario) -> Running:
        asked, port, log = payload(scenario.payload), free_port(), self._log("nginx")
        words = nginx.command(self.folder / f"nginx-{scenario.payload}", port, asked.answer, asked.media_type)
        process = self.stack.enter_context(started(words, log, {}))
        wait_until_ready(process, log, lambda: is_listening(port))
        return Running(port, process.pid, ("/action",))

    def _grpc_echo(self) -> Running:
        port, log = free_port(), self._log("grpc-echo")
        words = [sys.executable, "-m", "bench.serving.grpc_echo", str(port)]
        process = self.stack.enter_context(started(words, log, {}))
        wait_until_ready(process, log, lambda: accepts(port))
        return Running(port, process.pid, (GRPC_METHOD,))

    def _ours(self, competitor: Competitor, scenario: Scenario) -> Running:
        policies, publish = self.exports.policies(scenario.policy, competitor.policies), None
        if competitor.swapped:
            copy = self.exports.copied(scenario.policy, self.folder / competitor.name)
            policies, publish = {scenario.policy: copy}, self._checkpoints(scenario, copy).publish
        options = ["--engine", competitor.engine, "--workers", str(competitor.workers)]
        options += _OPTIONS.get(scenario.policy, ())
        grpc_port = free_port() if competitor.protocol == GRPC else 0
        if grpc_port:
            options += ["--grpc-port", str(grpc_port)]
        tree = self._tree(competitor)
        if competitor.policies > 1:  # compiling so many takes a minute
            state = self.folder / f"{competitor.name}-state"
            compiled = self.exports.compiled(scenario.policy, max(exports.HOW_MANY, competitor.policies), tree)
            shutil.copytree(compiled, state)
            options += ["--state-dir", str(state)]
        more = {}
        if competitor.traced:
            options.append("--traces")
            more = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._module('bench.serving.collector').port}",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": str(competitor.traced),
            }
        server = self.stack.enter_context(serving(policies, self._log(competitor.name), options, tree, more))
        port = grpc_port or server.port
        return Running(port, server.pid, tuple(f"/v1/policies/{name}/action" for name in policies), publish)

    def _tree(self, competitor: Competitor) -> Path:
        if not competitor.before:
            return ROOT
        if self.before is None:
            raise BenchError("no earlier revision was named")
        return self.before

    def _checkpoints(self, scenario: Scenario, policy: Path) -> Checkpoints:
        prewritten = Prewritten(self.exports.folder / scenario.policy / exports.READY)
        checkpoints = Checkpoints(prewritten, policy, policy.with_name(f"{policy.name}-{exports.READY}"))
        checkpoints.prepare(prewritten.count)
        return checkpoints

    def _module(self, module: str, *words: str) -> Running:
        """A Python module that takes its port first, and answers `/action`."""
        port, log = free_port(), self._log(module)
        process = self.stack.enter_context(started([sys.executable, "-m", module, str(port), *words], log, {}))
        wait_until_ready(process, log, lambda: is_listening(port))
        return Running(port, process.pid, ("/action",))

    def _peer(self, peer: Peer, scenario: Scenario) -> Running:
        """Its own Python; it may take long until it answers, and answers nonsense before."""
        if self.environments is None:
            raise BenchError("no environments of peers were named")
        python, port, log = python_of(self.environments, peer), free_port(), self._log(peer.name)
        model, _ = compiled_in(self.exports.compiled(scenario.policy))
        here = Path(peers.__file__).parent
        words = [str(python), str(here / f"{peer.module}.py"), str(port)]
        family: list[tuple[int, bytes]] = []
        self.stack.callback(lambda: usage.kill(family))  # some end and leave their workers behind
        process = self.stack.enter_context(started(words, log, {MODEL: str(model), "PYTHONPATH": str(here)}))
        self.stack.callback(lambda: family.extend(usage.identified(usage.family(process.pid))))
        asked = peer.payload(payload(scenario.payload))
        wait_until_ready(process, log, lambda: bool(check_answer(port, peer.path, asked)))
        return Running(port, process.pid, (peer.path,))

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"
