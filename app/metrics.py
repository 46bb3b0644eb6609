"""The metrics of the server: one table of them, and the objects that count.

Made per process and passed down: there is no global registry. The processes of one server count together:
`PROMETHEUS_MULTIPROC_DIR`, which the client library reads when it is imported, names the folder in which each has its
files. What is counted for every request is counted in plain numbers first, and flushed into those files by `flush`: a
process that is killed takes with it what it counted since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from app import __version__
from app.local_histogram import AnswerCounts, LocalHistogram

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "policy_server_"
# A process that is killed loses what it counted in the last so many seconds.
FLUSH_S = 1.0

_LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Between those, for the console: a median in one of so few could be twice as large as it is shown.
_FINER_S = tuple(50e-6 * 1.2**power for power in range(66))
# Bounds of `AnswerCounts.seconds`.
FINE_LATENCY_S = LocalHistogram(_LATENCY_S, _FINER_S).bounds
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_POLICY, _ROUTE = ("policy",), ("policy", "route")


class Metric(NamedTuple):
    """One metric. `buckets`: upper bounds, of a histogram only."""

    name: str
    kind: type[Counter | Gauge | Histogram]
    help: str
    labels: tuple[str, ...] = _POLICY
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that Prometheus sees; it adds `_total` to that of a counter."""
        return PREFIX + self.name

    def register(self, registry: CollectorRegistry) -> Any:
        """Makes the object that counts, and has the registry collect it."""
        options: dict[str, Any] = {}
        if self.kind is Gauge:
            options["multiprocess_mode"] = "mostrecent"
        elif self.kind is Histogram:
            options["buckets"] = self.buckets
        return self.kind(self.full_name, self.help, self.labels, registry=registry, **options)


METRICS = (
    Metric("answers", Counter, "Data requests answered, by route and HTTP status.", (*_ROUTE, "status")),
    Metric(
        "answer_seconds", Histogram, "Time from a request's header read to its answer, in seconds.", _ROUTE, _LATENCY_S
    ),
    Metric("batch_rows", Histogram, "Rows per batch.", buckets=_ROWS),
    Metric("train_step", Gauge, "Train step of the weights."),
    Metric("ready", Gauge, "1 while some weights of the policy serve, 0 while it cannot be opened."),
    Metric("paused", Gauge, "1 while the policy is paused, else 0."),
    Metric("build_info", Gauge, "1, with the version of the server as its label.", ("version",)),
    Metric("sessions", Gauge, "Sessions that are open.", ()),
    Metric("console_pages", Gauge, "Pages that follow the console's stream, in all workers.", ()),
    Metric(
        "restarts", Counter, "Processes that ended and were started again, by process: builder or worker.", ("process",)
    ),
    Metric("swaps", Counter, "Versions that became active, the export at the start not counted."),
    Metric("refused_versions", Counter, "Checkpoints that may not serve."),
    Metric(
        "unusable_records",
        Counter,
        "Records of sessions in Redis that were not written by this server, or were changed, and that were dropped.",
    ),
    Metric("outside_bounds", Counter, "Floats of requests outside the bounds of the spec."),
    Metric(
        "swap_seconds",
        Histogram,
        "Time from the start of a swap to its end on every worker, in seconds.",
        buckets=_LATENCY_S,
    ),
    Metric(
        "swap_stage_seconds",
        Histogram,
        "Time of each step of a swap: loaded, verified, active, drained (the version before it), in seconds.",
        (*_POLICY, "stage"),
        _LATENCY_S,
    ),
    Metric("fleet_members", Gauge, "Servers of the fleet that hold a lease, as this one knows them.", ()),
    Metric("fleet_leased", Gauge, "1 while this server holds a lease of its fleet, 0 while it does not.", ()),
    Metric("fleet_epoch", Gauge, "Epoch of what this server serves: it grows with each change of the fleet."),
    Metric(
        "fleet_held_seconds",
        Histogram,
        "Time for which requests were held while the fleet committed a version, in seconds.",
        buckets=_LATENCY_S,
    ),
)


class DataMetrics:
    """The counts of one data route of one policy. `answers`: HTTP status → the counter of its answers.

    `recent`: what was flushed since `Metrics.take_recent`.
    """

    def __init__(self, answers: Callable[[int], Counter], latency: Histogram) -> None:
        self._answers = answers
        self._latency = latency
        self._statuses: dict[int, int] = {}
        self._seconds = LocalHistogram(_LATENCY_S, _FINER_S)
        self.recent = AnswerCounts()

    def answered(self, status: int, seconds: float) -> None:
        """Counts one answer."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._seconds.observe(seconds)

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
        self._data: dict[tuple[str, str], DataMetrics] = {}
        self._policies: dict[str, PolicyMetrics] = {}
        self.open_sessions = self.restarts = 0

    def policy(self, name: str) -> PolicyMetrics:
        """Returns the metrics of one policy, with their labels looked up once."""
        if name not in self._policies:
            self._policies[name] = PolicyMetrics(self._all, name)
        return self._policies[name]

    def ready(self, policy: str, ready: bool) -> None:
        """Records whether the policy serves, or cannot be opened."""
        self._all["ready"].labels(policy).set(ready)

    def fleet(self, members: int, leased: bool) -> None:
        """Records how many servers hold a lease, and whether this one does."""
        self._all["fleet_members"].set(members)
        self._all["fleet_leased"].set(leased)

    def sessions(self, count: int) -> None:
        """Records how many sessions are open."""
        self.open_sessions = count
        self._all["sessions"].set(count)

    def console_pages(self, count: int) -> None:
        """Records how many pages follow the console's stream."""
        self._all["console_pages"].set(count)

    def data(self, policy: str, route: str) -> DataMetrics:
        """Returns the metrics of a data route. `policy` is one that is served, or "" for any other name."""
        found = self._data.get((policy, route))
        if found is None:
            answers, latency = self._all["answers"], self._all["answer_seconds"]
            found = self._data[policy, route] = DataMetrics(
                lambda status: answers.labels(policy, route, str(status)), latency.labels(policy, route)
            )
        return found

    def flush(self) -> None:
        """Lets all processes see what this one has counted: to be called every `FLUSH_S` seconds, and at the end."""
        for data in self._data.values():
            data.flush()
        for policy in self._policies.values():
            policy.flush()

    def take_recent(self) -> dict[str, AnswerCounts]:
        """Returns what this process has answered since the last call, by policy."""
        self.flush()
        taken: dict[str, AnswerCounts] = {}
        for (policy, _), data in self._data.items():
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
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        with _lock(Path(os.environ[SHARED_FOLDER_VARIABLE]), fcntl.LOCK_SH):
            yield together


class PolicyMetrics:
    """The counts of one policy. `metrics`: the objects of `METRICS` by name."""

    def __init__(self, metrics: Mapping[str, Any], policy: str) -> None:
        self._train_step: Gauge = metrics["train_step"].labels(policy)
        self._paused: Gauge = metrics["paused"].labels(policy)
        self._swaps: Counter = metrics["swaps"].labels(policy)
        self._refused: Counter = metrics["refused_versions"].labels(policy)
        self._outside_bounds: Counter = metrics["outside_bounds"].labels(policy)
        self._unusable_records: Counter = metrics["unusable_records"].labels(policy)
        self._epoch: Gauge = metrics["fleet_epoch"].labels(policy)
        self._held_seconds: Histogram = metrics["fleet_held_seconds"].labels(policy)
        self._swap_seconds: Histogram = metrics["swap_seconds"].labels(policy)
        self._batch_rows: Histogram = metrics["batch_rows"].labels(policy)
        self._rows = LocalHistogram(_ROWS)
        self._policy, self._stage_seconds = policy, metrics["swap_stage_seconds"]

    def active(self, train_step: int) -> None:
        """Records the train step of the weights that serve now."""
        self._train_step.set(train_step)

    def swapped(self, seconds: float) -> None:
        """Counts a version that became active, so many seconds after its swap started."""
        self._swaps.inc()
        self._swap_seconds.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Records how long a stage of a swap took."""
        self._stage_seconds.labels(self._policy, name).observe(seconds)

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

    def paused(self, paused: bool) -> None:
        """Records whether the policy is paused."""
        self._paused.set(paused)

    def batch(self, rows: int) -> None:
        """Counts a batch of so many rows."""
        self._rows.observe(rows)

    def flush(self) -> None:
        """See `Metrics.flush`."""
        self._rows.flush_into(self._batch_rows)


# Stands in the place of a process's id in the names of the files with the counts of ended processes.
_ENDED = "ended"


def join_ended(folder: Path) -> None:
    """Adds the counts of processes that have ended to one file of each kind, and deletes theirs.

    Or each process that was ever started again would have to be read for each scrape. While one runs, that is left for
    the next time.
    """
    with _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
        for path in sorted(folder.glob("*.db")) if locked else ():
            kind, _, process = path.stem.rpartition("_")
            if process.isdecimal() and _is_over(int(process)):
                _join(path, folder / f"{kind}_{_ENDED}.db", adds=not kind.startswith("gauge"))
                path.unlink()


def _is_over(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _join(path: Path, into: Path, adds: bool) -> None:
    """Adds counters and histograms up; of a gauge the last value counts."""
    together = MmapedDict(str(into))  # type: ignore[no-untyped-call]
    try:
        for key, value, at, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
            known, known_at = together.read_value(key)  # type: ignore[no-untyped-call]
            if adds:
                together.write_value(key, known + value, 0.0)  # type: ignore[no-untyped-call]
            elif at >= known_at:
                together.write_value(key, value, at)  # type: ignore[no-untyped-call]
    finally:
        together.close()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _lock(folder: Path, how: int) -> Iterator[bool]:
    """Yields whether the files of the folder are locked inside the block."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, how)
        except OSError:  # in use; or a file system without locks
            locked = False
        yield locked
    finally:
        os.close(descriptor)
