"""The objects that count, one for each row of `METRICS`.

Made per process and passed down: there is no global registry. The processes of one server count together:
`PROMETHEUS_MULTIPROC_DIR`, which the client library reads when it is imported, names the folder in which each has its
files. What is counted for every request is counted in plain numbers first, and flushed into those files by `flush`: a
process that is killed takes with it what it counted since.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app import __version__
from app.local_histogram import AnswerCounts, LocalHistogram
from app.metric_files import join_ended, together_in
from app.metric_table import (
    ENGINE_CALL_S,
    ENGINES,
    FINER_S,
    LATENCY_S,
    LOST,
    LOST_STEPS,
    METRICS,
    PREFIX,
    RESTARTED,
    ROWS,
    STAGES,
)

log = logging.getLogger("policy_server.metrics")

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# A process that is killed loses what it counted in the last so many seconds.
FLUSH_S = 1.0
# Bounds of `AnswerCounts.seconds`.
FINE_LATENCY_S = LocalHistogram(LATENCY_S, FINER_S).bounds


class DataMetrics:
    """The counts of one data route of one policy. `recent`: what was flushed since `Metrics.take_recent`.

    `answers`: HTTP status → the counter of its answers. `errors`: kind of error → the counter of it.
    """

    def __init__(self, answers: Callable[[int], Counter], errors: Callable[[str], Counter], latency: Histogram) -> None:
        self._answers = answers
        self._errors = errors
        self._latency = latency
        self._statuses: dict[int, int] = {}
        self._seconds = LocalHistogram(LATENCY_S, FINER_S)
        self.recent = AnswerCounts()

    def answered(self, status: int, seconds: float) -> None:
        """Counts one answer."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._seconds.observe(seconds)

    def refused(self, kind: str, status: int, seconds: float) -> None:
        """Counts a request that no cycle came to answer."""
        self.failed(kind)
        self.answered(status, seconds)

    def failed(self, kind: str) -> None:
        """Counts an error."""
        self._errors(kind).inc()

    def flush(self) -> None:
        """See `Metrics.flush`."""
        if not self._statuses:
            return
        statuses, self._statuses = self._statuses, {}
        for status, count in statuses.items():
            self._answers(status).inc(count)
        self.recent.count(statuses, self._seconds.flush_into(self._latency))


class Metrics:
    """The server's registry, with an object for each row of `METRICS`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._all = {metric.name: metric.register(self.registry) for metric in METRICS}
        self._all["build_info"].labels(__version__).set(1)
        for process in RESTARTED:  # or the first restart would be no increase
            self._all["restarts"].labels(process)
        self._measures: list[Callable[[], None]] = []
        self._failed: dict[Callable[[], None], str] = {}
        self._data: dict[tuple[str, str], DataMetrics] = {}
        self._policies: dict[str, PolicyMetrics] = {}
        self._experience: dict[str, ExperienceMetrics] = {}
        self._leased = False
        # For the console, beside what Prometheus sees.
        self.open_sessions = self.restarts = 0
        self.resident_bytes: dict[str, int] = {}

    def policy(self, name: str) -> PolicyMetrics:
        """Returns the metrics of one policy, with their labels looked up once."""
        if name not in self._policies:
            self._policies[name] = PolicyMetrics(self._all, name)
        return self._policies[name]

    def experience(self, policy: str) -> ExperienceMetrics:
        """Returns the metrics of one policy's experience."""
        if policy not in self._experience:
            self._experience[policy] = ExperienceMetrics(self._all, policy)
        return self._experience[policy]

    def ready(self, policy: str, ready: bool) -> None:
        """Records whether the policy serves, or cannot be opened."""
        self._all["ready"].labels(policy).set(ready)

    def fleet(self, members: int, leased: bool) -> None:
        """Records how many servers hold a lease, and whether this one does."""
        self._all["fleet_members"].set(members)
        self._all["fleet_leased"].set(leased)
        self._all["fleet_lapses"].inc(self._leased and not leased)
        self._leased = leased

    def sessions(self, count: int, limit: int) -> None:
        """Records how many sessions are open, and how many may be."""
        self.open_sessions = count
        self._all["sessions"].set(count)
        self._all["sessions_limit"].set(limit)

    def buffered(self, requests: int, answers: int, limit: int) -> None:
        """Records the bytes of unfinished requests and of unread answers, and the most of each."""
        self._all["buffered_bytes"].labels("requests").set(requests)
        self._all["buffered_bytes"].labels("answers").set(answers)
        self._all["buffered_limit_bytes"].set(limit)

    def memory(self, process: str, resident: int) -> None:
        """Records the bytes of memory that the processes of a kind take."""
        self.resident_bytes[process] = resident
        self._all["resident_memory_bytes"].labels(process).set(resident)

    def limits(self, memory: int, checkpoint_expected_s: int) -> None:
        """Records the bytes of memory that there are, and the time within which new checkpoints are expected."""
        self._all["memory_limit_bytes"].set(memory)
        self._all["checkpoint_expected_seconds"].set(checkpoint_expected_s)

    def measure_with(self, measure: Callable[[], None]) -> None:
        """Has `measure` called before each flush: it records what is only known by looking."""
        self._measures.append(measure)

    def console_pages(self, count: int) -> None:
        """Records how many pages follow the console's stream."""
        self._all["console_pages"].set(count)

    def data(self, policy: str, route: str) -> DataMetrics:
        """Returns the metrics of a data route. `policy` is one that is served, or "" for any other name."""
        found = self._data.get((policy, route))
        if found is None:
            answers, errors, latency = (self._all[name] for name in ("answers", "errors", "answer_seconds"))
            found = self._data[policy, route] = DataMetrics(
                lambda status: answers.labels(policy, route, str(status)),
                lambda kind: errors.labels(policy, kind),
                latency.labels(policy, route),
            )
        return found

    def flush(self) -> None:
        """Lets all processes see what this one has counted: to be called every `FLUSH_S` seconds, and at the end."""
        for measure in self._measures:
            self._call(measure)
        for data in self._data.values():
            data.flush()
        for policy in self._policies.values():
            policy.flush()

    def _call(self, measure: Callable[[], None]) -> None:
        """Calls; a bug in one of them costs its own figures alone, and is logged once."""
        try:
            measure()
        except Exception as error:
            if self._failed.get(measure) != repr(error):
                log.exception("metrics cannot be measured")
            self._failed[measure] = repr(error)
        else:
            self._failed.pop(measure, None)

    async def flush_now_and_then(self) -> None:
        """Calls `flush` every `FLUSH_S` seconds, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                self.flush()
        finally:
            self.flush()

    def take_recent(self) -> dict[str, AnswerCounts]:
        """Returns what this process has answered since the last call, by policy."""
        taken: dict[str, AnswerCounts] = {}
        for (policy, _), data in self._data.items():
            data.flush()
            if data.recent.answers:
                taken.setdefault(policy, AnswerCounts()).add(data.recent)
                data.recent = AnswerCounts()
        return taken

    def restarted(self, process: str) -> None:
        """Counts the restart of a process; the counts of the one that ended are kept, but not its files."""
        self.restarts += 1
        self._all["restarts"].labels(process).inc()
        if SHARED_FOLDER_VARIABLE in os.environ:
            join_ended(Path(os.environ[SHARED_FOLDER_VARIABLE]))

    def text(self) -> bytes:
        """Returns what all processes of the server have counted, in Prometheus's text format."""
        with self._together() as registry:
            return generate_latest(registry)

    def samples(self, name: str) -> list[tuple[dict[str, str], str, float]]:
        """Returns what all processes have counted of a row of `METRICS`: labels, the sample's name after it, value."""
        with self._together() as registry:
            families = [family for family in registry.collect() if family.name == PREFIX + name]
        start = len(PREFIX + name)
        return [(dict(s.labels), s.name[start:], s.value) for family in families for s in family.samples]

    @contextlib.contextmanager
    def _together(self) -> Iterator[CollectorRegistry]:
        """Yields a registry with the counts of all processes."""
        self.flush()
        if SHARED_FOLDER_VARIABLE not in os.environ:
            yield self.registry
            return
        with together_in(Path(os.environ[SHARED_FOLDER_VARIABLE])) as together:
            yield together


class ExperienceMetrics:
    """The metrics of the experience of one policy, as the recorder counts it."""

    def __init__(self, metrics: Mapping[str, Any], policy: str) -> None:
        self._rows = metrics["experience_rows"].labels(policy)
        self._lost = [metrics["experience_lost_rows"].labels(policy, reason) for reason in LOST]
        self._gauges = [
            metrics[name].labels(policy)
            for name in ("experience_bytes", "experience_readers", "experience_behind_rows")
        ]
        self._counted = [0, 0, 0]

    def record(self, rows: int, lost: tuple[int, int], size: int, behind: Sequence[int]) -> None:
        """Records rows and lost ones since the process started, bytes, and how far readers are behind."""
        counts = [rows, *lost]
        for counter, count, before in zip((self._rows, *self._lost), counts, self._counted, strict=True):
            counter.inc(max(0, count - before))
        self._counted = counts
        for gauge, value in zip(self._gauges, (size, len(behind), max(behind, default=0)), strict=True):
            gauge.set(value)


class PolicyMetrics:
    """The counts of one policy. `metrics`: the objects of `METRICS` by name."""

    def __init__(self, metrics: Mapping[str, Any], policy: str) -> None:
        self._train_step: Gauge = metrics["train_step"].labels(policy)
        self._paused: Gauge = metrics["paused"].labels(policy)
        self._swaps: Counter = metrics["swaps"].labels(policy)
        self._refused: Counter = metrics["refused_versions"].labels(policy)
        self._outside_bounds: Counter = metrics["floats_outside_bounds"].labels(policy)
        self._unusable_records: Counter = metrics["unusable_records"].labels(policy)
        self._epoch: Gauge = metrics["fleet_epoch"].labels(policy)
        self._held_seconds: Histogram = metrics["fleet_held_seconds"].labels(policy)
        self._swap_seconds: Histogram = metrics["swap_seconds"].labels(policy)
        self._batch_rows: Histogram = metrics["batch_rows"].labels(policy)
        self._engine_seconds: Histogram = metrics["engine_seconds"].labels(policy)
        self._queue: Gauge = metrics["queue_requests"].labels(policy)
        self._queue_limit: Gauge = metrics["queue_limit_requests"].labels(policy)
        self._rows, self._calls = LocalHistogram(ROWS), LocalHistogram(ENGINE_CALL_S)
        self._policy, self._metrics = policy, metrics
        self._recorded_steps: Counter = metrics["experience_steps"].labels(policy)
        for reason in LOST_STEPS:
            metrics["experience_lost_steps"].labels(policy, reason)
        for stage in STAGES:  # or those of the first swap would be no increase
            metrics["swap_stage_seconds"].labels(policy, stage)

    def labelled(self, name: str, label: str) -> Any:
        """Returns the metric of a row of `METRICS` that has one more label than the policy."""
        return self._metrics[name].labels(self._policy, label)

    def active(self, train_step: int, engine: str) -> None:
        """Records that other weights serve from now on: their train step, and the engine that runs them."""
        self._train_step.set(train_step)
        self._metrics["activated_timestamp_seconds"].labels(self._policy).set(time.time())
        for name in ENGINES:
            self._metrics["engine"].labels(self._policy, name).set(name == engine)

    def swapped(self, seconds: float) -> None:
        """Counts a version that became active, so many seconds after its swap started."""
        self._swaps.inc()
        self._swap_seconds.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Records how long a stage of a swap took."""
        self._metrics["swap_stage_seconds"].labels(self._policy, name).observe(seconds)

    def epoch(self, epoch: int) -> None:
        """Records in which epoch what serves was committed."""
        self._epoch.set(epoch)

    def held(self, seconds: float) -> None:
        """Records how long requests were held while the fleet committed a version."""
        self._held_seconds.observe(seconds)

    def refused(self) -> None:
        """Counts a checkpoint that may not serve."""
        self._refused.inc()

    def outside_bounds(self, count: int) -> None:
        """Counts floats of a request that lie outside the spec's bounds."""
        self._outside_bounds.inc(count)

    def unusable_record(self) -> None:
        """Counts a record of a session that cannot be used."""
        self._unusable_records.inc()

    def recorded_steps(self, steps: int, lost: Mapping[str, int]) -> None:
        """Counts steps that were to be recorded, and those that could not be, by reason."""
        self._recorded_steps.inc(max(0, steps - sum(lost.values())))
        for reason, count in lost.items():
            self._metrics["experience_lost_steps"].labels(self._policy, reason).inc(count)

    def paused(self, paused: bool) -> None:
        """Records whether the policy is paused."""
        self._paused.set(paused)

    def batch(self, rows: int, seconds: float | None) -> None:
        """Counts a batch of so many rows, and how long the engine took; None where that is not known."""
        self._rows.observe(rows)
        if seconds is not None:
            self._calls.observe(seconds)

    def queue(self, requests: int, limit: int) -> None:
        """Records how many requests wait in this process, and how many may."""
        self._queue.set(requests)
        self._queue_limit.set(limit)

    def flush(self) -> None:
        """See `Metrics.flush`."""
        self._rows.flush_into(self._batch_rows)
        self._calls.flush_into(self._engine_seconds)
