"""A competitor and a scenario → what can be measured. Who is asked several things is started once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import BenchError
from bench.harness.load import HTTP2_PREFACE, Generator, grpc_frames, masked_frame, request_bytes, websocket_handshake
from bench.serving.calls import check_answer
from bench.serving.payloads import GRPC, OPENPI, Payload, in_protocol, payload
from bench.serving.peers.table import PEERS
from bench.serving.scenarios import Competitor, Kind, Scenario
from bench.serving.start_servers import Running, Starter
from bench.serving.targets import InProcess, Loaded, Overloaded, Swapped, Watched


@dataclass
class Launcher:
    """Starts whoever takes part; `program` is the compiled load generator."""

    starter: Starter
    program: Path
    _started: dict[tuple[Competitor, str], Running | BenchError] = field(default_factory=dict)

    @property
    def running(self) -> list[int]:
        """The processes that were started."""
        return [one.pid for one in self._started.values() if isinstance(one, Running)]

    def target(self, competitor: Competitor, scenario: Scenario) -> InProcess | Loaded:
        """What can be measured; the server is started where it does not run yet.

        Raises:
          BenchError: it cannot be started, or does not answer this.
        """
        asked = payload(scenario.payload)
        if competitor.kind is Kind.IN_PROCESS:
            return InProcess(self.starter.exports.compiled(scenario.policy), asked.rows)
        running = self._running(competitor, scenario)
        if competitor.kind is Kind.PEER:
            asked = PEERS[competitor.name].payload(asked)
        paths = running.paths if competitor.spread else running.paths[:1]
        if competitor.protocol:
            path, asked = in_protocol(asked, competitor.protocol, scenario.policy)
            paths = (path,)
        generator = self._generator(f"{scenario.name}-{competitor.name}", competitor.protocol, running, paths, asked)
        loaded = (generator, running.port, running.pid, scenario.clients)
        if running.publish:
            return Swapped(*loaded, running.publish)
        if competitor.pages:
            return Watched(*loaded, competitor.pages)
        return Overloaded(*loaded) if scenario.overload else Loaded(*loaded)

    def _running(self, competitor: Competitor, scenario: Scenario) -> Running:
        """A constant answers one kind of request. Who differs in nothing but the requests that go there is the same."""
        server = competitor
        if competitor.kind is Kind.OURS:  # one that takes gRPC has another port for it
            protocol = competitor.protocol if competitor.protocol == GRPC else ""
            server = replace(competitor, name="", spread=False, protocol=protocol, pages=0)
        key = (server, scenario.payload if competitor.kind in (Kind.ECHO, Kind.RAW, Kind.NGINX) else "")
        if key not in self._started:
            try:
                self._started[key] = self.starter.start(competitor, scenario)
            except BenchError as error:
                self._started[key] = error
        found = self._started[key]
        if isinstance(found, BenchError):
            raise found
        return found

    def _generator(
        self, name: str, protocol: str, running: Running, paths: tuple[str, ...], asked: Payload
    ) -> Generator:
        """Only HTTP is asked once before: the first turn says whether anything comes back on others."""
        if protocol == OPENPI:
            return Generator(
                self.program,
                self._files(name, [masked_frame(asked.body)]),
                handshake=self._files(f"{name}-handshake", [websocket_handshake(paths[0])])[0],
            )
        if protocol == GRPC:
            return Generator(
                self.program,
                self._files(name, [grpc_frames(paths[0], asked.body)]),
                preface=self._files(f"{name}-preface", [HTTP2_PREFACE])[0],
            )
        for path in paths:
            check_answer(running.port, path, asked)
        requests = [request_bytes(path, asked.body, asked.media_type, asked.fields) for path in paths]
        return Generator(self.program, self._files(name, requests))

    def _files(self, name: str, contents: list[bytes]) -> tuple[Path, ...]:
        files = []
        for number, content in enumerate(contents):
            files.append(self.starter.folder / f"{name}-{number}")
            files[-1].write_bytes(content)
        return tuple(files)
