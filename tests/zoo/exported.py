"""A kind of the zoo beside its export, both with one way to be asked: flat inputs in, flat outputs out."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp  # noqa: F401  full exports hold its types,
import tf_agents.distributions.utils  # noqa: F401  and these
from tf_agents.policies import tf_policy

from saver import PolicySaver
from tests.zoo import inputs
from tests.zoo.kinds import KINDS, Kind, make, perturb

Flat = dict[str, np.ndarray]
Act = Callable[..., Mapping[str, tf.Tensor]]  # tensors by their flat names in and out


@dataclass(frozen=True, eq=False)
class Exported:
    """A live policy and the folder that its saver has filled. Tests may not write into it.

    `options` are what its saver was made with besides the policy.
    """

    kind: Kind
    policy: tf_policy.TFPolicy
    options: dict[str, Any]
    saver: PolicySaver
    folder: Path

    @property
    def batch_size(self) -> int | None:
        """The fixed number of rows, if it is fixed."""
        return self.options.get("batch_size")

    def inputs(self, rows: int, seed: int) -> Flat:
        """Valid inputs of the action signature, by name."""
        custom = self._input_fn()
        if custom is None:
            nest: Any = inputs.observations(self.policy, rows, seed)
        else:
            nest = (inputs.values(custom[1], rows, np.random.default_rng(seed)),)
        return dict(zip(self.input_names, tf.nest.flatten(nest), strict=True))

    @property
    def input_names(self) -> list[str]:
        """The flat names of what `action` takes, in the order of its nest."""
        return [spec.name for spec in tf.nest.flatten(self.saver.action_input_spec)]

    def live(self, **flat: Any) -> dict[str, tf.Tensor]:
        """What the policy itself answers, under the names that its export has."""
        return self.named(self.policy.action(*self.arguments(**flat)))

    def arguments(self, **flat: Any) -> tuple[Any, Any]:
        """The time step and policy state that flat inputs stand for."""
        tensors = [tf.convert_to_tensor(flat[name]) for name in self.input_names]
        nest = tf.nest.pack_sequence_as(self.saver.action_input_spec, tensors)
        custom = self._input_fn()
        return nest if custom is None else custom[0](*nest)

    def named(self, step: Any) -> dict[str, tf.Tensor]:
        """The tensors of a policy step, under the names that the export has."""
        return _named(self.saver.policy_step_spec, step)

    def initial_state(self, rows: int) -> Flat:
        """The policy's own initial state, under the names that its export has."""
        return arrays(_named(self.saver.policy_state_spec, self.policy.get_initial_state(rows)))

    @cached_property
    def loaded(self) -> Any:
        """The export, loaded once. Tests may not change its weights."""
        return self.load()

    def load(self) -> Any:
        """The export, loaded anew. Who holds only its signatures loses its variables."""
        return tf.saved_model.load(str(self.folder))

    @contextmanager
    def trained(self, seed: int = 13) -> Iterator[None]:
        """Inside, the live policy has other weights, afterwards its own again. 13 changes every kind's answers."""
        before = [(variable, variable.numpy()) for variable in self.policy.variables()]
        perturb(self.policy, seed)
        try:
            yield
        finally:
            for variable, value in before:
                variable.assign(value)

    def _input_fn(self) -> Any:
        return self.options.get("input_fn_and_spec")


def _named(specs: Any, values: Any) -> dict[str, tf.Tensor]:
    leaves = zip(tf.nest.flatten(specs), tf.nest.flatten(values), strict=True)
    return {spec.name: tf.convert_to_tensor(value) for spec, value in leaves}


def arrays(tensors: Mapping[str, tf.Tensor]) -> Flat:
    """The same as arrays."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


class Exports:
    """Kinds of the zoo, each made and exported when it is first asked for.

    `verified`: those whose saver compares what it wrote; all if not given. The tests compare it anyway.
    """

    def __init__(self, parent: Path, verified: Collection[str] = tuple(KINDS)) -> None:
        self._parent = parent
        self._verified = verified
        self._made: dict[str, Exported] = {}

    def __getitem__(self, name: str) -> Exported:
        if name not in self._made:
            kind = KINDS[name]
            policy, options = make(kind, seed=7), kind.options()
            saver = PolicySaver(policy, **options)
            saver.save(self._parent / name, verify=name in self._verified)
            self._made[name] = Exported(kind, policy, options, saver, self._parent / name)
        return self._made[name]
