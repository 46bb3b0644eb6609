"""The metrics of the server: one table of their names, kinds, helps, labels and buckets.

The names follow Prometheus's conventions: base units, `_total` for counters, `_info` for what is said by labels alone.
Labels have few values, which no client chooses: names of policies that are served, of routes, and of kinds of errors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "policy_server_"

LATENCY_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Between those, for the console: a median in one of so few could be twice as large as it is shown.
FINER_S = tuple(50e-6 * 1.2**power for power in range(66))
# A call of a small policy is a small part of its answer's time.
ENGINE_CALL_S = (0.000025, 0.00005, 0.0001, 0.00025, *LATENCY_S)
# A stage may take a millisecond; a swap of a large graph goes on beyond the two minutes that a reload waits for it.
_SWAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
_POLICY, _ROUTE, _ARM = ("policy",), ("policy", "route"), ("policy", "arm")
# Of a gauge that processes set: the value set last counts, or the values of those that run are added up.
LAST, SUM = "mostrecent", "livesum"
ENGINES = ("litert", "tensorflow")
# The stages of a swap.
STAGES = ("loaded", "verified", "active", "drained")
# The processes that are started again when they end.
RESTARTED = ("builder", "worker", "recorder")
# Why rows of experience are gone: the limit of the disk, and a disk that could not take them.
LOST = ("limit", "disk")
# Why a worker did not record a step: the disk, too much that is not read yet, and what should not happen.
LOST_STEPS = ("disk", "unread", "error")
# What answers sessions, and what is asked beside them.
ARMS = ("active", "canary", "shadow")
# How the trial of a canary ends.
DECISIONS = ("stop", "promote", "end")
# What becomes of the rows that a shadow is to be asked.
COMPARISONS = ("agree", "differ", "skipped")


class Metric(NamedTuple):
    """One metric. `buckets`: upper bounds, of a histogram. `joined`: how processes' values become one, of a gauge."""

    name: str
    kind: type[Counter | Gauge | Histogram]
    help: str
    labels: tuple[str, ...] = _POLICY
    buckets: tuple[float, ...] = ()
    joined: str = LAST

    @property
    def full_name(self) -> str:
        """The name in Prometheus: without what it adds for the parts of a histogram."""
        return PREFIX + self.name + ("_total" if self.kind is Counter else "")

    def register(self, registry: CollectorRegistry) -> Any:
        """Makes the object that counts, and has the registry collect it."""
        options: dict[str, Any] = {}
        if self.kind is Gauge:
            options["multiprocess_mode"] = self.joined
        elif self.kind is Histogram:
            options["buckets"] = self.buckets
        return self.kind(PREFIX + self.name, self.help, self.labels, registry=registry, **options)


METRICS = (
    Metric("build_info", Gauge, "1, with the version of the server as its label.", ("version",)),
    Metric("answers", Counter, "Data requests answered, by route and HTTP status.", (*_ROUTE, "status")),
    Metric("errors", Counter, "Data requests that ended in an error, by the kind of it.", (*_POLICY, "kind")),
    Metric(
        "answer_seconds", Histogram, "Time from a request's header read to its answer, in seconds.", _ROUTE, LATENCY_S
    ),
    Metric("batch_rows", Histogram, "Rows per batch.", buckets=ROWS),
    Metric(
        "engine_seconds", Histogram, "Time of a call of the engine for one batch, in seconds.", buckets=ENGINE_CALL_S
    ),
    Metric("queue_requests", Gauge, "Requests that wait for a batch, on all workers together.", joined=SUM),
    Metric("queue_limit_requests", Gauge, "Requests that may wait, on all workers together.", joined=SUM),
    Metric(
        "buffered_bytes",
        Gauge,
        "Bytes of unfinished requests, and of answers that clients have yet to read, on all workers together.",
        ("kind",),
        joined=SUM,
    ),
    Metric("buffered_limit_bytes", Gauge, "Most bytes that each kind of them may take.", (), joined=SUM),
    Metric("train_step", Gauge, "Train step of the weights."),
    Metric("engine", Gauge, "1 for the engine that the active version runs on, 0 for the other.", (*_POLICY, "engine")),
    Metric("ready", Gauge, "1 while some weights of the policy serve, 0 while it cannot be opened."),
    Metric("paused", Gauge, "1 while the policy is paused, else 0."),
    Metric("swaps", Counter, "Versions that became active, the export at the start not counted."),
    Metric("refused_versions", Counter, "Checkpoints that may not serve."),
    Metric(
        "swap_seconds",
        Histogram,
        "Time from the start of a swap to its end on every worker, in seconds.",
        buckets=_SWAP_S,
    ),
    Metric(
        "swap_stage_seconds",
        Histogram,
        "Time of each step of a swap: loaded, verified, active, drained (the version before it), in seconds.",
        (*_POLICY, "stage"),
        _SWAP_S,
    ),
    Metric(
        "activated_timestamp_seconds", Gauge, "Unix time at which the active version became active here, in seconds."
    ),
    Metric(
        "checkpoint_expected_seconds",
        Gauge,
        "Time within which a new checkpoint is expected, in seconds; 0 where none is.",
        (),
    ),
    Metric(
        "arm_share", Gauge, "Share of the sessions, or of the shadow's requests, that an arm gets; 0 for none.", _ARM
    ),
    Metric("arm_sessions", Counter, "Sessions that began while a canary was tried, by arm.", _ARM),
    Metric("arm_episodes", Counter, "Episodes that ended while a canary was tried, by arm.", _ARM),
    Metric("arm_mean_return", Gauge, "Mean return of those episodes, of the present canary or the last one.", _ARM),
    Metric("arm_answers", Counter, "Requests that were answered while a canary was tried, by arm.", _ARM),
    Metric("arm_failures", Counter, "Requests that an arm could not answer: the active version did.", _ARM),
    Metric(
        "canary_decisions",
        Counter,
        "Trials of canaries that ended: stop (refused), promote (active), end (an operator chose another version).",
        (*_POLICY, "decision"),
    ),
    Metric(
        "shadow_rows",
        Counter,
        "Rows of a shadow's share: agree (the same action), differ, skipped (not asked, so that others are answered).",
        (*_POLICY, "comparison"),
    ),
    Metric("sessions", Gauge, "Sessions that are open.", ()),
    Metric("sessions_limit", Gauge, "Most sessions that may be open.", ()),
    Metric("console_pages", Gauge, "Pages that follow the console's stream, in all workers.", ()),
    Metric(
        "unusable_records",
        Counter,
        "Records of sessions in Redis that were not written by this server, or were changed, and that were dropped.",
    ),
    Metric("experience_rows", Counter, "Rows of experience that were recorded."),
    Metric("experience_bytes", Gauge, "Bytes of experience on the disk."),
    Metric(
        "experience_lost_rows",
        Counter,
        "Rows of experience that are gone: removed at the limit of the disk, or never taken by a disk that was full.",
        (*_POLICY, "reason"),
    ),
    Metric("experience_steps", Counter, "Answered steps of sessions that are recorded."),
    Metric(
        "experience_lost_steps",
        Counter,
        "Steps of sessions that could not be recorded: the disk took none, or too many wait to be read; error: a bug.",
        (*_POLICY, "reason"),
    ),
    Metric("experience_readers", Gauge, "Readers of experience that were here in the last two minutes."),
    Metric("experience_behind_rows", Gauge, "Rows that the reader who is furthest behind has yet to read."),
    Metric("floats_outside_bounds", Counter, "Floats of requests outside the bounds of the spec."),
    Metric(
        "restarts",
        Counter,
        "Processes that ended and were started again, by process: builder, worker or recorder.",
        ("process",),
    ),
    Metric(
        "resident_memory_bytes",
        Gauge,
        "Memory of the server's processes, by process: control, builder, recorder or worker (all of them together).",
        ("process",),
    ),
    Metric("memory_limit_bytes", Gauge, "Memory that the container may use, or that the machine has.", ()),
    Metric("fleet_members", Gauge, "Servers of the fleet that hold a lease, as this one knows them.", ()),
    Metric("fleet_leased", Gauge, "1 while this server holds a lease of its fleet, 0 while it does not.", ()),
    Metric("fleet_lapses", Counter, "Times that this server lost the lease of its fleet.", ()),
    Metric("fleet_epoch", Gauge, "Epoch of what this server serves: it grows with each change of the fleet."),
    Metric(
        "fleet_held_seconds",
        Histogram,
        "Time for which requests were held while the fleet committed a version, in seconds.",
        buckets=LATENCY_S,
    ),
)
