"""What the server does with its policies: act, distribution, initial state, describe. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from app.batching.batcher import Batcher
from app.batching.rule import Job, Result
from app.engine.base import Arrays, Engine
from app.errors import DeadlinePassed, DoesNotFit, Problem, TooOld, UnknownPolicy, Unsupported
from app.metrics import PolicyMetrics
from app.swap.lease import Slot
from app.swap.manager import Manager
from app.validate import InputReader, Options, read_options
from app.wire.tensors import show
from saver.artifact import DistributionInfo, Leaf, PolicySpec, leaves, nest_to_json, pack


@dataclass(frozen=True)
class Policy:
    """One policy that is served, with all its parts."""

    name: str
    spec: PolicySpec
    distributions: Mapping[str, DistributionInfo] | None
    no_distribution: str
    reader: InputReader
    manager: Manager
    batcher: Batcher
    metrics: PolicyMetrics
    engine_reason: str

    def lease(self) -> AbstractContextManager[Slot[Engine]]:
        """The active version, for the length of one batch."""
        return self.manager.active.lease()


class Service:
    """The policies by name; the first is the default."""

    def __init__(self, policies: Mapping[str, Policy], deadline_ms: int, rows_limit: int) -> None:
        self._policies = policies
        self._deadline_s = deadline_ms / 1000
        self._rows_limit = rows_limit

    @property
    def policies(self) -> list[Policy]:
        """All of them, in the order in which they were named at start."""
        return list(self._policies.values())

    def policy(self, name: str | None) -> Policy:
        """The policy of that name; None is the default one.

        Raises:
          UnknownPolicy: there is none.
        """
        if name is None:
            return self.policies[0]
        try:
            return self._policies[name]
        except KeyError:
            raise UnknownPolicy(f"no policy {name!r} is served; there are: {', '.join(self._policies)}") from None

    async def act(self, policy: Policy, body: dict[str, Any]) -> dict[str, Any]:
        """The policy's action for a request's object: {"action", "policy_state"?, "info"?, "version", …}."""
        result, batched = await self._compute(policy, "action", body)
        answer = {"action": _packed(policy.spec.action, result.outputs, batched)}
        return answer | _rest(policy.spec, result, batched)

    async def distribution(self, policy: Policy, body: dict[str, Any]) -> dict[str, Any]:
        """The distribution of the policy's action, as data: {"distribution", "policy_state"?, …}.

        Raises:
          Unsupported: the policy has none.
        """
        if policy.distributions is None:
            raise Unsupported(f"policy {policy.name} has no distribution: {policy.no_distribution}")
        infos = policy.distributions
        result, batched = await self._compute(policy, "distribution", body)

        def described(leaf: Leaf) -> dict[str, Any]:
            info = infos[leaf.name]

            def value(name: str) -> Any:
                array = result.outputs[f"{leaf.name}/{name}"]
                return array if batched else array[0]

            parameters = {name: value(name) for name in info.parameters}
            statistics = {name: value(name) for name in info.statistics}
            return {"family": info.family, "parameters": parameters, **statistics}

        return {"distribution": pack(policy.spec.action, described)} | _rest(policy.spec, result, batched)

    async def initial_state(self, policy: Policy, body: dict[str, Any]) -> dict[str, Any]:
        """{"batch_size": n} → {"policy_state": …}; without, one unbatched state."""
        unknown = sorted(body.keys() - {"batch_size"})
        if unknown:
            raise DoesNotFit([Problem(unknown[0], "is no field of this request", "batch_size")])
        size = body.get("batch_size")
        if size is not None and (type(size) is not int or not 1 <= size <= self._rows_limit):
            raise DoesNotFit([Problem("batch_size", show(size), f"an integer from 1 to {self._rows_limit}, or none")])
        with policy.lease() as slot:
            outputs = await policy.batcher.in_lane(lambda: slot.engine.initial_state(size or 1))
        return {"policy_state": _packed(policy.spec.initial_state, outputs, size is not None)}

    async def _compute(self, policy: Policy, function: str, body: dict[str, Any]) -> tuple[Result, bool]:
        options = read_options(body.get("options"))
        _refuse_unsupported(policy, options)
        inputs = policy.reader.read({key: value for key, value in body.items() if key != "options"})
        if inputs.outside_bounds:
            policy.metrics.outside_bounds(inputs.outside_bounds)
        loop = asyncio.get_running_loop()
        timeout = self._deadline_s if options.timeout_ms is None else options.timeout_ms / 1000
        deadline = loop.time() + timeout
        await _catch_up(policy, options.min_train_step, deadline)
        job = Job(
            function,
            inputs.arrays,
            inputs.rows,
            inputs.needs_state,
            options.min_train_step,
            deadline,
            loop.create_future(),
        )
        policy.batcher.submit(job)
        try:
            async with asyncio.timeout_at(deadline):
                return await job.done, inputs.batched
        except TimeoutError:
            raise DeadlinePassed(f"no answer within {timeout * 1000:.0f} ms") from None

    def describe_all(self) -> list[dict[str, Any]]:
        """What `GET /v1/policies` lists."""
        return [_brief(policy) for policy in self.policies]

    def describe(self, policy: Policy) -> dict[str, Any]:
        """Everything about one policy."""
        spec = policy.spec
        nests = ("inputs", "action", "state", "info", "initial_state")
        return {
            **_brief(policy),
            "engine_reason": policy.engine_reason,
            "batch_size": spec.batch_size,
            "signatures": spec.to_json()["signatures"],
            "specs": {name: nest_to_json(getattr(spec, name)) for name in nests},
            "distributions": _families(policy),
            "pinned": policy.manager.pinned,
            "stale": policy.manager.stale(),
            "versions": [v.public() for v in policy.manager.versions()],
        }


def _refuse_unsupported(policy: Policy, options: Options) -> None:
    asked = {"mode": options.mode, "seed": options.seed, "log_prob": options.log_prob or None}
    for name, value in asked.items():
        if value is not None:
            raise Unsupported(f"option {name}: the export of policy {policy.name} has no signature for it")


async def _catch_up(policy: Policy, train_step: int | None, deadline: float) -> None:
    if train_step is None:
        return
    try:
        async with asyncio.timeout_at(deadline):
            await policy.manager.wait_for(train_step)
    except TimeoutError:
        version = policy.manager.active.version
        raise TooOld(
            f"the newest weights are {version.name} (train step {version.train_step}), min_train_step is {train_step}"
        ) from None


def _packed(nest: Any, outputs: Arrays, batched: bool) -> Any:
    return pack(nest, lambda leaf: outputs[leaf.name] if batched else outputs[leaf.name][0])


def _rest(spec: PolicySpec, result: Result, batched: bool) -> dict[str, Any]:
    rest: dict[str, Any] = {}
    for key, nest in (("policy_state", spec.state), ("info", spec.info)):
        names = [leaf.name for _, leaf in leaves(nest)]
        if names and all(name in result.outputs for name in names):
            rest[key] = _packed(nest, result.outputs, batched)
    return rest | {"version": result.version, "train_step": result.train_step}


def _brief(policy: Policy) -> dict[str, Any]:
    version = policy.manager.active.version
    return {
        "name": policy.name,
        "version": version.name,
        "train_step": version.train_step,
        "engine": version.engine,
        "ready": True,
    }


def _families(policy: Policy) -> Any:
    if policy.distributions is None:
        return {"unavailable": policy.no_distribution}
    infos = policy.distributions
    return pack(
        policy.spec.action,
        lambda leaf: {
            "family": infos[leaf.name].family,
            "parameters": list(infos[leaf.name].parameters),
            "statistics": list(infos[leaf.name].statistics),
        },
    )
