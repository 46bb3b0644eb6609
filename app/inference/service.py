"""What the server does with its policies: act, distribution, initial state, describe. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from app.batching.rule import Pause, Result, Waiter
from app.batching.timing import timing_of_task
from app.errors import DeadlinePassed, NotReady, TooOld, UnknownPolicy
from app.inference.policy import Policy
from app.inference.request_parser import PendingRequest, RequestParser
from app.offload import Offload
from app.rpc.messages import FleetStatus
from app.wire.codecs import Codec
from app.wire.limits import SMALL_BYTES
from saver.artifact import Leaf, nest_to_json, pack

T = TypeVar("T")
# A member of a fleet that was left behind is back within seconds.
_RETRY_S = 1


class Service:
    """The policies by name; the first of `names` is the default. They are added as they are opened."""

    def __init__(self, names: Sequence[str], deadline_ms: int, rows_limit: int, offload: Offload | None = None) -> None:
        self._names = tuple(names)
        self._policies: dict[str, Policy] = {}
        self._failures: dict[str, str] = {}
        self.offload = offload or Offload()
        self._deadline_s = deadline_ms / 1000
        self.parser = RequestParser(rows_limit)
        # What this server's fleet knows of it; None where it belongs to none.
        self.fleet: FleetStatus | None = None

    @property
    def policies(self) -> list[Policy]:
        """The policies that are open, in the order in which they were named at start."""
        return [self._policies[name] for name in self._names if name in self._policies]

    @property
    def default(self) -> str:
        """The name of the default policy."""
        return self._names[0]

    @property
    def failed(self) -> list[str]:
        """The names of the policies that are not open."""
        return [name for name in self._names if name not in self._policies]

    def add(self, policy: Policy) -> None:
        """Opens a policy to requests."""
        self._policies[policy.name] = policy
        self._failures.pop(policy.name, None)

    def fail(self, failures: Mapping[str, str]) -> None:
        """Records why policies are not open: reasons by name."""
        self._failures = {name: reason for name, reason in failures.items() if name not in self._policies}

    def policy(self, name: str | None) -> Policy:
        """Returns the policy of that name; None is the default one.

        Raises:
          UnknownPolicy: there is none.
          NotReady: the policy cannot be opened.
        """
        wanted = self.default if name is None else name
        try:
            return self._policies[wanted]
        except KeyError:
            if wanted in self._names:
                raise NotReady(f"policy {wanted} cannot be opened: {self._reason(wanted)}") from None
            raise UnknownPolicy(f"no policy {wanted!r} is served; there are: {', '.join(self._names)}") from None

    def _reason(self, name: str) -> str:
        return self._failures.get(name, "it has not been tried yet")

    async def read_body(
        self,
        body: bytes,
        read: Callable[[bytes], T],
        at_once: Callable[[bytes], T | None] | None = None,
        large: Callable[[bytes], T] | None = None,
    ) -> T:
        """Reads a body on the event loop where it is short, and in another thread where that may take long.

        Args:
          body: of a request; `RequestCycle.ask` decides likewise, without waiting.
          read: reads it.
          at_once: reads a large one where that takes a few milliseconds; returns None where it may take longer.
          large: reads a large one in another thread; `read` where there is none.

        Raises:
          Overloaded: too many large bodies wait to be read.
        """
        if len(body) <= SMALL_BYTES:
            return read(body)
        found = None if at_once is None else at_once(body)
        if found is not None:
            return found
        return await self.offload.run(len(body), large or read, body)

    async def write_elsewhere(self, pending: PendingRequest, result: Result, codec: Codec) -> Any:
        """Does what `pending.written` does, in another thread."""
        return await self.offload.run(8 * pending.numbers, pending.written, result, codec)

    def waits(self, pending: PendingRequest) -> bool:
        """Returns whether a request needs newer weights than those that serve.

        Raises:
          NotReady: other servers of the fleet may have them, and cannot be asked.
        """
        wanted = pending.job.min_train_step
        if wanted is None or pending.job.loaded is not None:
            return False
        if self.fleet is not None and not self.fleet.leased:
            raise NotReady("this server does not take part in its fleet now, where weights may be newer", _RETRY_S)
        return pending.policy.versions.active.version.train_step < wanted

    def submit(self, pending: PendingRequest, waiter: Waiter, asked_at: float, alone: bool = False) -> None:
        """Submits a request, as `Batcher.submit` does.

        Args:
          pending: the request.
          waiter: gets its answer.
          asked_at: when it came, in seconds of the event loop.
          alone: whether it may run now.

        Raises:
          Overloaded, NotReady: see `Batcher.submit`.
        """
        job, timeout_s = pending.job, pending.timeout_s
        job.asked_at, job.waiter = asked_at, waiter
        job.deadline = asked_at + (self._deadline_s if timeout_s is None else timeout_s)
        pending.policy.batcher.submit(job, alone)

    async def answered(self, pending: PendingRequest) -> Result:
        """Returns what the policy answers, once it has weights that are new enough.

        Raises:
          TooOld: there are none before the deadline.
          DeadlinePassed: there is no answer before the deadline.
          Overloaded, NotReady: see `Batcher.submit`.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if self.waits(pending):
            pending.policy.batcher.check_open()
            await _catch_up(pending, asked_at + self._timeout_s(pending))
        answer: asyncio.Future[Result] = loop.create_future()
        timing = timing_of_task.get()
        if timing is not None and pending.job.timing is None:
            pending.policy.batcher.time(pending.job, timing)
        self.submit(pending, answer, asked_at)
        return await answer

    def timeout_s(self, timeout_ms: int | None) -> float:
        """Returns the seconds that a request may take; None leaves it to the server."""
        return self._deadline_s if timeout_ms is None else timeout_ms / 1000

    def _timeout_s(self, pending: PendingRequest) -> float:
        return self._deadline_s if pending.timeout_s is None else pending.timeout_s

    async def pause(self, policy: Policy, mode: Pause) -> str | None:
        """Pauses a policy in every worker; returns what is in force when no batch runs any more.

        Raises:
          DeadlinePassed: a batch still runs; the pause is in force all the same.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await policy.manager.pause(mode.value)
        except TimeoutError:
            waited = f"{self._deadline_s * 1000:.0f} ms"
            raise DeadlinePassed(f"policy {policy.name} still runs a batch after {waited}") from None

    def refuse_paused(self) -> None:
        """Refuses what waits for the end of a pause: the server stops."""
        for policy in self.policies:
            policy.batcher.refuse_paused()

    def describe_all(self) -> list[dict[str, Any]]:
        """Returns what `GET /v1/policies` lists."""
        return [
            _brief(self._policies[name]) if name in self._policies else _brief_of_failed(name, self._reason(name))
            for name in self._names
        ]

    async def describe(self, policy: Policy) -> dict[str, Any]:
        """Returns everything about one policy."""
        spec = policy.spec
        nests = ("inputs", "action", "state", "info", "initial_state")
        return {
            **_brief(policy),
            "engine_reason": policy.versions.active.version.engine_reason,
            "rows_independent": not policy.versions.active.version.dependent_rows,
            **_why_dependent(policy.versions.active.version.dependent_rows),
            "probe_inputs": policy.versions.active.version.probed,
            "batch_size": spec.batch_size,
            "signatures": spec.to_json()["signatures"],
            "specs": {name: nest_to_json(getattr(spec, name)) for name in nests},
            "distributions": _families(policy),
            "unavailable": policy.serving.unavailable,
            "paused": policy.batcher.paused,
            **await policy.manager.status(),
        }


async def _catch_up(pending: PendingRequest, deadline: float) -> None:
    policy, train_step = pending.policy, pending.job.min_train_step
    assert train_step is not None
    try:
        async with asyncio.timeout_at(deadline):
            await policy.manager.wait_for(train_step)
    except TimeoutError:
        version = policy.versions.active.version
        raise TooOld(
            f"the newest weights are {version.name} (train step {version.train_step}), min_train_step is {train_step}"
        ) from None


def _brief(policy: Policy) -> dict[str, Any]:
    version = policy.versions.active.version
    return {
        "name": policy.name,
        "version": version.name,
        "train_step": version.train_step,
        "engine": version.engine,
        "ready": True,
    }


def _why_dependent(reason: str) -> dict[str, str]:
    return {"rows_reason": reason} if reason else {}


def _brief_of_failed(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "version": "", "train_step": -1, "engine": "", "ready": False, "reason": reason}


def _families(policy: Policy) -> Any:
    serving = policy.serving
    if "distribution" not in serving.signatures:
        return {"unavailable": serving.unavailable["distribution"]}

    def described(leaf: Leaf) -> dict[str, Any]:
        info = serving.distributions[leaf.name]
        parts = {"parameters": list(info.parameters), "statistics": list(info.statistics)}
        return {"family": info.family, **info.details, **parts}

    return pack(policy.spec.action, described)
