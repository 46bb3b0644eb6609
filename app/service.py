"""What the server does with its policies: act, distribution, initial state, describe. Knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.batching.batcher import Batcher
from app.batching.rule import INITIAL_STATE, Job, Pause, Result
from app.engine.base import Arrays
from app.engine.noise import fresh_noise, seeded_noise
from app.errors import DeadlinePassed, DoesNotFit, Problem, TooOld, UnknownPolicy, Unsupported
from app.metrics import PolicyMetrics
from app.swap.copies import Copies
from app.swap.remote import RemoteManager
from app.swap.upload import Uploads
from app.validate import InputReader, Options, read_options
from app.wire.tensors import show
from saver.artifact import LOG_PROB, Leaf, PolicySpec, ServingInfo, leaves, nest_to_json, pack


@dataclass(frozen=True)
class Policy:
    """One policy that is served, with all its parts."""

    name: str
    spec: PolicySpec
    serving: ServingInfo
    reader: InputReader
    copies: Copies
    manager: RemoteManager
    batcher: Batcher
    metrics: PolicyMetrics
    uploads: Uploads


class Service:
    """The policies by name; the first is the default."""

    def __init__(self, policies: Mapping[str, Policy], deadline_ms: int, rows_limit: int) -> None:
        self._policies = policies
        self._deadline_s = deadline_ms / 1000
        self._rows_limit = rows_limit
        self._generator = np.random.default_rng()

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
        """The policy's action for a request's object: {"action", "policy_state"?, "info"?, "log_prob"?, …}.

        Raises:
          Unsupported: an option that this policy's export cannot honour.
        """
        options = read_options(body.get("options"))
        function = _function_of(policy, options)
        result, batched = await self._compute(policy, function, body, options)
        answer = {"action": _packed(policy.spec.action, result.outputs, batched)}
        rest = _rest(policy.spec, result, batched)
        if options.log_prob:
            log_prob = result.outputs[LOG_PROB]
            rest = {LOG_PROB: log_prob if batched else log_prob[0]} | rest
        return answer | rest

    async def distribution(self, policy: Policy, body: dict[str, Any]) -> dict[str, Any]:
        """The distribution of the policy's action, as data: {"distribution", "policy_state"?, …}.

        Raises:
          Unsupported: the policy has none.
        """
        options = read_options(body.get("options"))
        _require(policy, "distribution", f"policy {policy.name} has no distribution")
        for name, asked in (("mode", options.mode), ("seed", options.seed), (LOG_PROB, options.log_prob or None)):
            if asked is not None:
                raise Unsupported(f"option {name} is for action: a distribution is not sampled")
        infos = policy.serving.distributions
        result, batched = await self._compute(policy, "distribution", body, options)

        def described(leaf: Leaf) -> dict[str, Any]:
            info = infos[leaf.name]

            def value(name: str) -> Any:
                array = result.outputs[f"{leaf.name}/{name}"]
                return array if batched else array[0]

            parameters = {name: value(name) for name in info.parameters}
            statistics = {name: value(name) for name in info.statistics}
            return {"family": info.family, **info.details, "parameters": parameters, **statistics}

        return {"distribution": pack(policy.spec.action, described)} | _rest(policy.spec, result, batched)

    async def initial_state(self, policy: Policy, body: dict[str, Any]) -> dict[str, Any]:
        """{"batch_size": n} → {"policy_state": …}; without, one unbatched state."""
        unknown = sorted(body.keys() - {"batch_size"})
        if unknown:
            raise DoesNotFit([Problem(unknown[0], "is no field of this request", "batch_size")])
        size = body.get("batch_size")
        if size is not None and (type(size) is not int or not 1 <= size <= self._rows_limit):
            raise DoesNotFit([Problem("batch_size", show(size), f"an integer from 1 to {self._rows_limit}, or none")])
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_s
        job = Job(INITIAL_STATE, {}, size or 1, False, None, deadline, loop.create_future())
        result = await _answered(policy, job, self._deadline_s)
        return {"policy_state": _packed(policy.spec.initial_state, result.outputs, size is not None)}

    async def pause(self, policy: Policy, mode: Pause) -> str | None:
        """Pauses every front; returns what is in force when no batch runs any more.

        Raises:
          DeadlinePassed: one still runs; the pause is in force all the same.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await policy.manager.pause(mode.value)
        except TimeoutError:
            waited = f"{self._deadline_s * 1000:.0f} ms"
            raise DeadlinePassed(f"policy {policy.name} still runs a batch after {waited}") from None

    def stop_holding(self) -> None:
        """The server stops: whatever a pause holds is refused now."""
        for policy in self.policies:
            policy.batcher.stop_holding()

    async def _compute(
        self, policy: Policy, function: str, body: dict[str, Any], options: Options
    ) -> tuple[Result, bool]:
        inputs = policy.reader.read({key: value for key, value in body.items() if key != "options"})
        if inputs.outside_bounds:
            policy.metrics.outside_bounds(inputs.outside_bounds)
        loop = asyncio.get_running_loop()
        timeout = self._deadline_s if options.timeout_ms is None else options.timeout_ms / 1000
        deadline = loop.time() + timeout
        if options.min_train_step is not None:
            policy.batcher.check_open()
            await _catch_up(policy, options.min_train_step, deadline)
        arrays = inputs.arrays
        if function == "sample":
            arrays = arrays | self._noise(policy, inputs.rows, options.seed)
        job = Job(
            function,
            arrays,
            inputs.rows,
            inputs.needs_state,
            options.min_train_step,
            deadline,
            loop.create_future(),
            alone=options.seed is not None,
        )
        return await _answered(policy, job, timeout), inputs.batched

    def _noise(self, policy: Policy, rows: int, seed: int | None) -> Arrays:
        if seed is None:
            return fresh_noise(policy.serving.noise, rows, self._generator)
        return seeded_noise(policy.serving.noise, rows, seed)

    def describe_all(self) -> list[dict[str, Any]]:
        """What `GET /v1/policies` lists."""
        return [_brief(policy) for policy in self.policies]

    async def describe(self, policy: Policy) -> dict[str, Any]:
        """Everything about one policy."""
        spec = policy.spec
        nests = ("inputs", "action", "state", "info", "initial_state")
        return {
            **_brief(policy),
            "engine_reason": policy.copies.active.version.engine_reason,
            "batch_size": spec.batch_size,
            "signatures": spec.to_json()["signatures"],
            "specs": {name: nest_to_json(getattr(spec, name)) for name in nests},
            "distributions": _families(policy),
            "unavailable": policy.serving.unavailable,
            "paused": policy.batcher.paused,
            **await policy.manager.story(),
        }


def _function_of(policy: Policy, options: Options) -> str:
    """The function that honours the options.

    Raises:
      Unsupported: there is none; names the option and the reason.
    """
    if options.mode is None and options.seed is None and not options.log_prob:
        return "action"
    function = "greedy" if options.mode == "greedy" else "sample"
    asked = "mode" if options.mode is not None else "seed" if options.seed is not None else LOG_PROB
    _require(policy, function, f"option {asked}: policy {policy.name} has no {function} action")
    serving = policy.serving
    if options.log_prob and not (LOG_PROB in serving.signatures and LOG_PROB in serving.signatures[function].outputs):
        reason = policy.serving.unavailable.get(LOG_PROB, f"not for {function} actions")
        raise Unsupported(f"option {LOG_PROB}: policy {policy.name} has none: {reason}")
    return function


def _require(policy: Policy, function: str, otherwise: str) -> None:
    if function not in policy.serving.signatures:
        raise Unsupported(f"{otherwise}: {policy.serving.unavailable.get(function, 'not exported')}")


async def _answered(policy: Policy, job: Job, timeout_s: float) -> Result:
    policy.batcher.submit(job)
    try:
        async with asyncio.timeout_at(job.deadline):
            return await job.done
    except TimeoutError:
        why = f": policy {policy.name} is paused" if policy.batcher.paused else ""
        raise DeadlinePassed(f"no answer within {timeout_s * 1000:.0f} ms{why}") from None


async def _catch_up(policy: Policy, train_step: int, deadline: float) -> None:
    if policy.copies.active.version.train_step >= train_step:
        return
    try:
        async with asyncio.timeout_at(deadline):
            await policy.manager.wait_for(train_step)
    except TimeoutError:
        version = policy.copies.active.version
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
    version = policy.copies.active.version
    return {
        "name": policy.name,
        "version": version.name,
        "train_step": version.train_step,
        "engine": version.engine,
        "ready": True,
    }


def _families(policy: Policy) -> Any:
    serving = policy.serving
    if "distribution" not in serving.signatures:
        return {"unavailable": serving.unavailable["distribution"]}

    def described(leaf: Leaf) -> dict[str, Any]:
        info = serving.distributions[leaf.name]
        parts = {"parameters": list(info.parameters), "statistics": list(info.statistics)}
        return {"family": info.family, **info.details, **parts}

    return pack(policy.spec.action, described)
