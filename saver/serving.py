"""The serving signatures of a policy: flat functions that run with plain TensorFlow.

Beside `action` as TF-Agents exports it there are, where the policy has them:

- `distribution`: the inputs of `action` → the parameters and statistics of each action leaf's distribution.
- `greedy`: the inputs of `action` → what TF-Agents' GreedyPolicy around the policy would answer.
- `sample`: the inputs of `action` and noise → an action distributed as the policy's own. The same inputs and noise
  give the same action.
- `log_prob`: the inputs of `action` and an action → its joint log-probability, [rows].

`greedy` and `sample` also give `log_prob`, that of the action they answer with, where the policy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from tf_agents.policies import (
    epsilon_greedy_policy,
    gaussian_policy,
    greedy_policy,
    ou_noise_policy,
    tf_policy,
)
from tf_agents.trajectories import policy_step

from saver.artifact import LOG_PROB, NOISE_NORMAL, NOISE_UNIFORM, DistributionInfo, Noise, ServingInfo
from saver.distribution_types import NotDescribable, Tensors
from saver.distributions import flatten
from saver.impure_ops import impurities
from saver.log_probs import log_prob, log_prob_clipped, total
from saver.noise import Counting, Given, drawing_from, unclipped
from saver.pairs import paired
from saver.specs import concrete, signature_of

_EXPLORING = (
    epsilon_greedy_policy.EpsilonGreedyPolicy,
    gaussian_policy.GaussianPolicy,
    ou_noise_policy.OUNoisePolicy,
)


@dataclass(frozen=True)
class Interface:
    """How a policy is called with flat tensors, as its PolicySaver names them.

    `inputs`: the batched specs of `action`, in the order in which `arguments` takes the tensors.
    `arguments`: those tensors → (time_step, policy_state).
    `step_spec`: the PolicyStep of specs, each with its flattened name.
    """

    inputs: Sequence[tf.TensorSpec]
    arguments: Callable[[Sequence[tf.Tensor]], tuple[Any, Any]]
    step_spec: Any
    batch_size: int | None

    @property
    def actions(self) -> list[tf.TensorSpec]:
        """The batched specs of the action's leaves."""
        return [
            tf.TensorSpec([self.batch_size, *spec.shape], spec.dtype, spec.name)
            for spec in tf.nest.flatten(self.step_spec.action)
        ]


@dataclass(frozen=True)
class ServingFunctions:
    """The functions by name, and what policy.json says of them."""

    functions: dict[str, Any]
    info: ServingInfo


def serving_functions(
    policy: tf_policy.TFPolicy, interface: Interface, action: Any, initial_state: Any
) -> ServingFunctions:
    """Traces what `policy` has of distribution, greedy, sample and log_prob.

    Args:
      policy: the live policy.
      interface: its inputs and outputs.
      action: its flat `action` function, as PolicySaver exports it.
      initial_state: its flat `get_initial_state`.
    """
    maker = _Maker(policy, interface)
    makers: dict[str, Callable[[], Any]] = {
        "distribution": maker.distribution,
        LOG_PROB: maker.log_prob,  # before those that give it beside their action
        "greedy": maker.greedy,
        "sample": maker.sample,
    }
    if not impurities(concrete(action)):
        makers |= {"greedy": lambda: action, "sample": lambda: action}  # it has one action, and always the same
    if impurities(concrete(initial_state)):
        makers["sample"] = _refusing("the policy's initial state is random")
    functions: dict[str, Any] = {}
    unavailable = {}
    for name, make in makers.items():
        try:
            functions[name] = make()
            maker.made.add(name)
        except NotDescribable as error:
            unavailable[name] = str(error)
        except Exception as error:  # the policy's own code is traced here: it may raise anything
            unavailable[name] = _reason(policy, name, error)
    signatures = {name: signature_of(concrete(function)) for name, function in functions.items()}
    info = ServingInfo(signatures, maker.families, maker.noise, unavailable)
    return ServingFunctions(functions, info)


class _Maker:
    """Makes the functions one by one; `families` and `noise` are known when theirs are made."""

    def __init__(self, policy: tf_policy.TFPolicy, interface: Interface) -> None:
        self._policy = policy
        self._interface = interface
        self.families: dict[str, DistributionInfo] = {}
        self.noise = Noise(0, 0)
        self.made: set[str] = set()

    def distribution(self) -> Any:
        families: dict[str, DistributionInfo] = {}

        def distribution(tensors: Sequence[tf.Tensor]) -> Tensors:
            step = self._distribution_step(tensors)
            outputs = self._named(step, "state", "info")
            for name in self._filled_in():
                del outputs[name]
            for spec, leaf in self._leaves(step.action):
                flat = flatten(leaf)
                families[spec.name] = DistributionInfo(
                    flat.family, tuple(flat.parameters), tuple(flat.statistics), flat.details
                )
                described = {f"{spec.name}/{n}": tensor for n, tensor in (flat.parameters | flat.statistics).items()}
                if taken := described.keys() & outputs.keys():
                    raise NotDescribable(f"the policy has an output {min(taken)!r} already")
                outputs |= described
            return outputs

        function = self._traced(distribution, [])
        more = {"random": True} if impurities(function.get_concrete_function()) else {}
        # A copy: TensorFlow traces again when it saves.
        self.families = {name: replace(info, details=info.details | more) for name, info in families.items()}
        return function

    def greedy(self) -> Any:
        calm = greedy_policy.GreedyPolicy(without_exploration(self._policy))

        def greedy(tensors: Sequence[tf.Tensor]) -> Tensors:
            try:
                step = calm.action(*self._interface.arguments(tensors))
            except ValueError as error:
                if isinstance(error.__cause__, NotImplementedError):
                    raise NotDescribable("the policy's distribution has no mode, which a greedy action is") from None
                raise
            outputs = self._named(step, "action", "state", "info")
            return outputs | self._log_prob_of(tensors, tf.nest.flatten(step.action), [])

        return _pure(
            self._traced(greedy, []), "the policy's distribution is itself random, no action is the greedy one"
        )

    def sample(self) -> Any:
        counted = Counting(self._interface.batch_size)
        self._traced(lambda tensors: self._sampled(tensors, counted), [])
        if counted.refusal is not None:
            raise NotDescribable(counted.refusal)
        noise_specs = [
            tf.TensorSpec([self._interface.batch_size, size], tf.float32, name)
            for name, size in counted.sizes.items()
            if size
        ]

        def sample(tensors: Sequence[tf.Tensor]) -> Tensors:
            count = len(self._interface.inputs)
            given = {spec.name: noise for spec, noise in paired(noise_specs, tensors[count:])}
            return self._sampled(tensors[:count], Given(self._interface.batch_size, given))

        function = _pure(self._traced(sample, noise_specs), "the policy draws random numbers of its own")
        self.noise = Noise(counted.sizes[NOISE_UNIFORM], counted.sizes[NOISE_NORMAL])
        return function

    def log_prob(self) -> Any:
        if LOG_PROB in {spec.name for spec in tf.nest.flatten(self._interface.step_spec)}:
            raise NotDescribable(f"the policy has an output {LOG_PROB!r} already")
        count = len(self._interface.inputs)

        def given(tensors: Sequence[tf.Tensor]) -> Tensors:
            step = self._distribution_step(tensors[:count])
            return {LOG_PROB: self._joint(step, tensors[count:])}

        return _pure(self._traced(given, self._interface.actions), "the policy's distribution is itself random")

    def _sampled(self, tensors: Sequence[tf.Tensor], noise: Counting | Given) -> Tensors:
        with drawing_from(noise):
            step = self._policy.action(*self._interface.arguments(tensors))
        outputs = self._named(step, "action", "state", "info")
        return outputs | self._log_prob_of(tensors, tf.nest.flatten(step.action), noise.drawn)

    def _log_prob_of(
        self, tensors: Sequence[tf.Tensor], actions: Sequence[tf.Tensor], drawn: Sequence[tuple[Any, tf.Tensor]]
    ) -> Tensors:
        """The log-probability of an answered action, where the policy has `log_prob` at all.

        A draw that was at most clipped to the spec keeps TFP's cache of its value before a bijector, whose inverse
        would lose precision. Any other action is judged by the distribution that `distribution` gives.
        """
        if LOG_PROB not in self.made:
            return {}
        raw = [unclipped(action, drawn) for action in actions]
        if all(pair is not None for pair in raw):
            return {LOG_PROB: total(log_prob_clipped(*pair, a) for pair, a in paired(raw, actions) if pair)}
        return {LOG_PROB: self._joint(self._distribution_step(tensors), actions)}

    def _distribution_step(self, tensors: Sequence[tf.Tensor]) -> Any:
        return self._policy.distribution(*self._interface.arguments(tensors))

    def _joint(self, step: Any, actions: Sequence[tf.Tensor]) -> tf.Tensor:
        pairs = paired(self._leaves(step.action), actions)
        return total(log_prob(d, action) for (_, d), action in pairs)

    def _leaves(self, actions: Any) -> list[tuple[tf.TensorSpec, Any]]:
        """(spec, distribution) of each action leaf; a distribution counts as a leaf."""
        specs = tf.nest.flatten(self._interface.step_spec.action)
        return paired(specs, tf.nest.flatten(actions))

    def _filled_in(self) -> list[str]:
        """The info that `distribution` has to leave out: TF-Agents fills in 0 where no action is known."""
        if not self._policy.emit_log_probability:
            return []
        return [spec.name for spec in tf.nest.flatten(policy_step.get_log_probability(self._interface.step_spec.info))]

    def _named(self, step: Any, *parts: str) -> Tensors:
        """The tensors of a PolicyStep under their flattened names."""
        outputs: Tensors = {}
        for part in parts:
            specs = tf.nest.flatten(getattr(self._interface.step_spec, part))
            outputs |= {spec.name: t for spec, t in paired(specs, tf.nest.flatten(getattr(step, part)))}
        return outputs

    def _traced(self, call: Callable[[Sequence[tf.Tensor]], Tensors], more: Sequence[tf.TensorSpec]) -> Any:
        names = [spec.name for spec in [*self._interface.inputs, *more]]
        if len(set(names)) < len(names):
            raise NotDescribable("an input and an action of the policy have the same name")

        @tf.function(autograph=False, input_signature=[*self._interface.inputs, *more])
        def function(*tensors: tf.Tensor) -> Tensors:
            return {name: tf.identity(tensor) for name, tensor in call(tensors).items()}

        function.get_concrete_function()
        return function


def _pure(function: Any, otherwise: str) -> Any:
    if impurities(function.get_concrete_function()):
        raise NotDescribable(otherwise)
    return function


def without_exploration(policy: tf_policy.TFPolicy) -> tf_policy.TFPolicy:
    """The policy inside those that add exploration to another one."""
    while isinstance(policy, _EXPLORING):
        policy = policy.wrapped_policy if hasattr(policy, "wrapped_policy") else policy._wrapped_policy
    return policy


def _refusing(reason: str) -> Callable[[], Any]:
    def refuse() -> Any:
        raise NotDescribable(reason)

    return refuse


def _reason(policy: tf_policy.TFPolicy, function: str, error: Exception) -> str:
    kind = type(policy).__name__
    said = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, NotImplementedError):
        needed = "" if function == "distribution" else f"{function} needs the policy's distribution, and "
        return f"{needed}{kind} has none" + (f": {said}" if said and not needed else "")
    return f"tracing {kind} failed: {said or type(error).__name__}"
