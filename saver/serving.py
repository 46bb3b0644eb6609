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

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_agents.distributions import reparameterized_sampling
from tf_agents.policies import (
    epsilon_greedy_policy,
    gaussian_policy,
    greedy_policy,
    ou_noise_policy,
    tf_policy,
)
from tf_agents.trajectories import policy_step

from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM, DistributionInfo, Noise, ServingInfo
from saver.distributions import NotDescribable, flatten, log_prob, sample
from saver.purity import impurities
from saver.specs import signature_of

Tensors = dict[str, tf.Tensor]
LOG_PROB = "log_prob"
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
    """The functions by name, and what policy.json tells of them."""

    functions: dict[str, Any]
    info: ServingInfo


def serving_functions(policy: tf_policy.TFPolicy, interface: Interface, action: Any) -> ServingFunctions:
    """Traces what `policy` has of distribution, greedy, sample and log_prob.

    Args:
      policy: the live policy.
      interface: its inputs and outputs.
      action: its flat `action` function, as PolicySaver exports it.
    """
    maker = _Maker(policy, interface)
    makers: dict[str, Callable[[], Any]] = {
        "distribution": maker.distribution,
        "greedy": maker.greedy,
        "sample": maker.sample,
        "log_prob": maker.log_prob,
    }
    if not impurities(action.get_concrete_function()):
        makers |= {"greedy": lambda: action, "sample": lambda: action}  # it answers one action, and always the same
    functions: dict[str, Any] = {}
    unavailable = {}
    for name, make in makers.items():
        try:
            functions[name] = make()
        except NotDescribable as error:
            unavailable[name] = str(error)
        except Exception as error:  # the policy's own code is traced here: it may raise anything
            unavailable[name] = _reason(policy, error)
    signatures = {name: signature_of(function.get_concrete_function()) for name, function in functions.items()}
    info = ServingInfo(signatures, maker.families, maker.noise, unavailable)
    return ServingFunctions(functions, info)


class _Maker:
    """Makes the functions one by one; `families` and `noise` are known when theirs are made."""

    def __init__(self, policy: tf_policy.TFPolicy, interface: Interface) -> None:
        self._policy = policy
        self._interface = interface
        self.families: dict[str, DistributionInfo] = {}
        self.noise = Noise(0, 0)

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
                for name, tensor in (flat.parameters | flat.statistics).items():
                    outputs[f"{spec.name}/{name}"] = tensor
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
            with contextlib.suppress(Exception):  # what `log_prob` lacks is told there
                outputs[LOG_PROB] = self._joint(self._distribution_step(tensors), tf.nest.flatten(step.action))
            return outputs

        return _pure(
            self._traced(greedy, []), "the policy's distribution is itself random, no action is the greedy one"
        )

    def sample(self) -> Any:
        counted = _Counting()
        self._traced(lambda tensors: self._sampled(tensors, counted), [])
        noise_specs = [
            tf.TensorSpec([self._interface.batch_size, size], tf.float32, name)
            for name, size in counted.sizes.items()
            if size
        ]

        def sample(tensors: Sequence[tf.Tensor]) -> Tensors:
            count = len(self._interface.inputs)
            given = {spec.name: noise for spec, noise in zip(noise_specs, tensors[count:], strict=True)}
            return self._sampled(tensors[:count], _Given(given))

        function = _pure(self._traced(sample, noise_specs), "the policy draws random numbers of its own")
        self.noise = Noise(counted.sizes[NOISE_UNIFORM], counted.sizes[NOISE_NORMAL])
        return function

    def log_prob(self) -> Any:
        count = len(self._interface.inputs)

        def given(tensors: Sequence[tf.Tensor]) -> Tensors:
            step = self._distribution_step(tensors[:count])
            return {LOG_PROB: self._joint(step, tensors[count:])}

        return _pure(self._traced(given, self._interface.actions), "the policy's distribution is itself random")

    def _sampled(self, tensors: Sequence[tf.Tensor], noise: _Counting | _Given) -> Tensors:
        with _sampling_from(noise):
            step = self._policy.action(*self._interface.arguments(tensors))
        outputs = self._named(step, "action", "state", "info")
        actions = tf.nest.flatten(step.action)
        if len(noise.drawn) == len(actions):
            with contextlib.suppress(NotDescribable):
                outputs[LOG_PROB] = tf.add_n(
                    [_log_prob_of(d, raw, action) for (d, raw), action in zip(noise.drawn, actions, strict=True)]
                )
        return outputs

    def _distribution_step(self, tensors: Sequence[tf.Tensor]) -> Any:
        return self._policy.distribution(*self._interface.arguments(tensors))

    def _joint(self, step: Any, actions: Sequence[tf.Tensor]) -> tf.Tensor:
        pairs = zip(self._leaves(step.action), actions, strict=True)
        return tf.add_n([log_prob(d, action) for (_, d), action in pairs])

    def _leaves(self, actions: Any) -> list[tuple[tf.TensorSpec, Any]]:
        """(spec, distribution) of each action leaf; a distribution counts as a leaf."""
        specs = tf.nest.flatten(self._interface.step_spec.action)
        return list(zip(specs, tf.nest.flatten(actions), strict=True))

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
            outputs |= {spec.name: t for spec, t in zip(specs, tf.nest.flatten(getattr(step, part)), strict=True)}
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


class _Counting:
    """Noise that counts how many numbers of each kind a row needs."""

    def __init__(self) -> None:
        self.sizes = {NOISE_UNIFORM: 0, NOISE_NORMAL: 0}
        self.drawn: list[tuple[Any, tf.Tensor]] = []

    def uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        return self._count(NOISE_UNIFORM, shape)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        return self._count(NOISE_NORMAL, shape)

    def _count(self, kind: str, shape: tuple[int, ...]) -> tf.Tensor:
        self.sizes[kind] += math.prod(shape)
        return tf.fill([1, *shape], 0.5)  # one row stands for any number of them


class _Given:
    """Noise that deals out the columns of its inputs, from left to right; `drawn` remembers who drew what."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._used = dict.fromkeys(tensors, 0)
        self.drawn: list[tuple[Any, tf.Tensor]] = []

    def uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        # Safe against 0 and 1, whose logarithms are infinite.
        return tf.clip_by_value(self._take(NOISE_UNIFORM, shape), 2.0**-24, 1.0 - 2.0**-24)

    def normal(self, shape: tuple[int, ...]) -> tf.Tensor:
        return self._take(NOISE_NORMAL, shape)

    def _take(self, kind: str, shape: tuple[int, ...]) -> tf.Tensor:
        begin = self._used[kind]
        self._used[kind] = end = begin + math.prod(shape)
        return tf.reshape(self._tensors[kind][:, begin:end], [-1, *shape])


@contextlib.contextmanager
def _sampling_from(noise: _Counting | _Given) -> Iterator[None]:
    """Lets TF-Agents' policies draw their samples from `noise` while they are traced.

    Every policy of the library that samples its distribution does so by this one function. Other threads, which may
    be collecting experience meanwhile, draw as ever.
    """
    here = threading.get_ident()

    def from_noise(distribution: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        if threading.get_ident() != here:
            return original(distribution, *args, **kwargs)
        drawn = sample(distribution, noise)
        noise.drawn.append((distribution, drawn))
        return drawn

    with _ONE_AT_A_TIME:
        original = reparameterized_sampling.sample
        reparameterized_sampling.sample = from_noise
        try:
            yield
        finally:
            reparameterized_sampling.sample = original


_ONE_AT_A_TIME = threading.Lock()


def save_serving(saved_policy: tf.Module, signatures: dict[str, Any], folder: Path, expected: set[str]) -> None:
    """Writes the SavedModel of `signatures`, over the variables of a full export.

    The graph is the smallest that any checkpoint of the policy restores into.

    Args:
      saved_policy: what TF-Agents' PolicySaver saves: `model_variables`, `train_step`, `metadata`, and more.
      signatures: the flat functions by name.
      folder: where to.
      expected: the keys of the values in the full export's variables.
    """
    module = tf.Module()
    for name in ("model_variables", "train_step", "metadata", "get_train_step", "get_metadata"):
        setattr(module, name, getattr(saved_policy, name))
    try:
        tf.saved_model.save(module, str(folder), signatures)
        if variable_keys(folder) == expected:
            return
    except AssertionError:
        pass  # a function uses a look-up table or a variable that the policy does not list
    shutil.rmtree(folder, ignore_errors=True)
    module._all_assets = saved_policy._all_assets
    tf.saved_model.save(module, str(folder), signatures)


def variable_keys(folder: Path) -> set[str]:
    """The keys of the values in a SavedModel's variables."""
    prefix = str(folder / tf.saved_model.VARIABLES_DIRECTORY / tf.saved_model.VARIABLES_FILENAME)
    return {key for key, _ in tf.train.list_variables(prefix)}


def _pure(function: Any, otherwise: str) -> Any:
    if impurities(function.get_concrete_function()):
        raise NotDescribable(otherwise)
    return function


def _log_prob_of(distribution: Any, raw: tf.Tensor, answered: tf.Tensor) -> tf.Tensor:
    """The log-probability of what is answered: the raw sample, unless clipping to the spec has changed it.

    The raw sample keeps TFP's memory of the value before a bijector; an inverse would lose precision.
    """
    if answered is raw:
        return log_prob(distribution, raw)
    changed = tf.reduce_any(tf.reshape(answered != raw, [tf.shape(raw)[0], -1]), axis=1)
    return tf.where(changed, log_prob(distribution, answered), log_prob(distribution, raw))


def without_exploration(policy: tf_policy.TFPolicy) -> tf_policy.TFPolicy:
    """The policy inside those that add exploration to another one."""
    while isinstance(policy, _EXPLORING):
        policy = policy.wrapped_policy if hasattr(policy, "wrapped_policy") else policy._wrapped_policy
    return policy


def _reason(policy: tf_policy.TFPolicy, error: Exception) -> str:
    kind = type(policy).__name__
    said = (str(error).strip().splitlines() or [""])[0][:200]
    if isinstance(error, NotImplementedError):
        return f"{kind} has no distribution" + (f": {said}" if said else "")
    return f"tracing {kind} failed: {said or type(error).__name__}"
