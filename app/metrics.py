"""What is counted, each name once. Made per process and handed down: there is no global registry.

The processes of one server count together: `PROMETHEUS_MULTIPROC_DIR`, which the client library reads when it is
imported, names the folder in which each has its files. What is counted for every request is counted in plain numbers
first, and flushed into those files by `flush`: a process that is killed takes with it what it counted since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from app import __version__

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


FLUSH_S = 1.0


class LocalHistogram:
    """A histogram in plain numbers. `bounds` are those of the histogram that it is flushed into."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._empty = [0] * (len(bounds) + 1)
        self._counts = self._empty.copy()
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush_into(self, histogram: Histogram) -> None:
        """Adds what was counted to a histogram, and begins anew."""
        counts, total = self._counts, self._sum
        self._counts, self._sum = self._empty.copy(), 0.0
        # The library has no call for counts that were made elsewhere.
        for bucket, count in zip(histogram._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        if total:
            histogram._sum.inc(total)


class DataMetrics:
    """What is counted of the answers of one data route of one policy."""

    def __init__(self, answers: Callable[[int], Counter], latency: Histogram) -> None:
        self._answers = answers
        self._latency = latency
        self._statuses: dict[int, int] = {}
        self._seconds = LocalHistogram(_LATENCY_S)

    def answered(self, status: int, seconds: float) -> None:
        """Counts one answer."""
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._seconds.observe(seconds)

    def flush(self) -> None:
        """See `Metrics.flush`."""
        statuses, self._statuses = self._statuses, {}
        for status, count in statuses.items():
            self._answers(status).inc(count)
        self._seconds.flush_into(self._latency)


class Metrics:
    """The server's registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._data: dict[tuple[str, str], DataMetrics] = {}
        self._policies: dict[str, PolicyMetrics] = {}
        self._answers = self._make(Counter, "answers", "Data requests answered, by route and HTTP status.")
        self._latency = Histogram(
            "policy_server_answer_seconds",
            "Time from a request's header read to its answer, in seconds.",
            ("policy", "route"),
            registry=self.registry,
            buckets=_LATENCY_S,
        )
        self._batch_rows = Histogram(
            "policy_server_batch_rows", "Rows per batch.", ("policy",), registry=self.registry, buckets=_ROWS
        )
        build = Gauge(
            "policy_server_build_info",
            "1, with the version of the server as its label.",
            ("version",),
            registry=self.registry,
            multiprocess_mode="mostrecent",
        )
        build.labels(__version__).set(1)
        self._train_step = self._gauge("train_step", "Train step of the weights.")
        self._ready = self._gauge("ready", "1 while some weights of the policy serve, 0 while it cannot be opened.")
        self._paused = self._gauge("paused", "1 while the policy is paused, else 0.")
        self._sessions = Gauge(
            "policy_server_sessions", "Sessions that are open.", registry=self.registry, multiprocess_mode="mostrecent"
        )
        self._restarts = Counter(
            "policy_server_restarts",
            "Processes that ended and were started again: the builder, and the workers, which answer.",
            ("process",),
            registry=self.registry,
        )
        self._counters = {
            name: Counter(f"policy_server_{name}", text, ("policy",), registry=self.registry)
            for name, text in (
                ("swaps", "Versions that became active, the export at the start not counted."),
                ("refused_versions", "Checkpoints that may not serve."),
                ("unusable_records", "Records of sessions that others had written or changed, and that were dropped."),
                ("outside_bounds", "Floats of requests outside the bounds of the spec."),
            )
        }
        self._swap_seconds = Histogram(
            "policy_server_swap_seconds",
            "Time from the beginning of a swap to its end on every worker, in seconds.",
            ("policy",),
            registry=self.registry,
            buckets=_LATENCY_S,
        )

        self._stage_seconds = Histogram(
            "policy_server_swap_stage_seconds",
            "Time of each step of a swap: loaded, verified, active, drained (the version before it), in seconds.",
            ("policy", "stage"),
            registry=self.registry,
            buckets=_LATENCY_S,
        )

    def policy(self, name: str) -> PolicyMetrics:
        """The metrics of one policy, with the label look-ups done once."""
        if name in self._policies:
            return self._policies[name]
        metrics = PolicyMetrics(
            self._train_step.labels(name),
            self._counters["swaps"].labels(name),
            self._swap_seconds.labels(name),
            self._counters["refused_versions"].labels(name),
            self._counters["outside_bounds"].labels(name),
            self._counters["unusable_records"].labels(name),
            self._batch_rows.labels(name),
            self._paused.labels(name),
            lambda stage: self._stage_seconds.labels(name, stage),
        )
        self._policies[name] = metrics
        return metrics

    def ready(self, policy: str, ready: bool) -> None:
        """The policy serves, or cannot be opened."""
        self._ready.labels(policy).set(ready)

    def sessions(self, count: int) -> None:
        """So many are open."""
        self._sessions.set(count)

    def data(self, policy: str, route: str) -> DataMetrics:
        """Those of a data route. `policy` is one that is served, or "" for any other name."""
        found = self._data.get((policy, route))
        if found is None:

            def answers(status: int) -> Counter:
                return self._answers.labels(policy, route, str(status))

            found = self._data[policy, route] = DataMetrics(answers, self._latency.labels(policy, route))
        return found

    def flush(self) -> None:
        """Lets all processes see what this one has counted: to be called every `FLUSH_S` seconds, and at the end."""
        for data in self._data.values():
            data.flush()
        for policy in self._policies.values():
            policy.flush()

    def restarted(self, process: str) -> None:
        """A process was started again; what the one that ended has counted is kept, but not its files."""
        self._restarts.labels(process).inc()
        if SHARED_FOLDER_VARIABLE in os.environ:
            join_ended(Path(os.environ[SHARED_FOLDER_VARIABLE]))

    def text(self) -> bytes:
        """What all processes of the server have counted, in Prometheus's text format."""
        self.flush()
        if SHARED_FOLDER_VARIABLE not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        with _lock(Path(os.environ[SHARED_FOLDER_VARIABLE]), fcntl.LOCK_SH):
            return generate_latest(together)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"policy_server_{name}", text, ("policy",), registry=self.registry, multiprocess_mode="mostrecent")

    def _make(self, kind: type[Counter], name: str, text: str) -> Counter:
        return kind(f"policy_server_{name}", text, ("policy", "route", "status"), registry=self.registry)


class PolicyMetrics:
    """What the parts of one policy count."""

    def __init__(
        self,
        train_step: Gauge,
        swaps: Counter,
        swap_seconds: Histogram,
        refused: Counter,
        outside_bounds: Counter,
        unusable_records: Counter,
        batch_rows: Histogram,
        paused: Gauge,
        stage_seconds: Callable[[str], Histogram],
    ) -> None:
        self._train_step = train_step
        self._swaps = swaps
        self._swap_seconds = swap_seconds
        self._refused = refused
        self._outside_bounds = outside_bounds
        self._unusable_records = unusable_records
        self._batch_rows = batch_rows
        self._rows = LocalHistogram(_ROWS)
        self._paused = paused
        self._stage_seconds = stage_seconds

    def active(self, train_step: int) -> None:
        """These weights serve now."""
        self._train_step.set(train_step)

    def swapped(self, seconds: float) -> None:
        """A version became active, this long after it was seen."""
        self._swaps.inc()
        self._swap_seconds.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """A step of a swap took so long."""
        self._stage_seconds(name).observe(seconds)

    def refused(self) -> None:
        """A checkpoint may not serve."""
        self._refused.inc()

    def outside_bounds(self, count: int) -> None:
        """Floats of a request lie outside the spec's bounds."""
        self._outside_bounds.inc(count)

    def unusable_record(self) -> None:
        """A record of a session cannot be used."""
        self._unusable_records.inc()

    def paused(self, paused: bool) -> None:
        """The policy is paused, or no longer."""
        self._paused.set(paused)

    def batch(self, rows: int) -> None:
        """A batch ran."""
        self._rows.observe(rows)

    def flush(self) -> None:
        """See `Metrics.flush`."""
        self._rows.flush_into(self._batch_rows)


# The end of the name of the files that hold what ended processes have counted, in the place of a process's id.
_ENDED = "ended"


def join_ended(folder: Path) -> None:
    """Adds the counts of processes that have ended to one file of each kind, and deletes theirs.

    Or each process that was ever started again would have to be read for each look at the metrics. Where somebody is
    looking, that is left for the next time.
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
    """Sums of counters and histograms; of a gauge what was set last."""
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
    """Whether the files of the folder are locked within."""
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
