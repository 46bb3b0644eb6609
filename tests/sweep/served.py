"""An operation's policy, its export, and the engine that a server would run it with; both asked in the same way."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tf_agents.trajectories import time_step as ts

from app.builder.builder import Builder
from app.builder.open_export import open_export
from app.engine.base import Engine, InputRefused
from app.versions.loader import BundleLoader
from saver import PolicySaver
from saver.artifact import leaves
from tests.sweep.operation import Operation, OperationPolicy
from tests.sweep.values import Flat

Ask = Callable[[Flat], list[np.ndarray] | None]


@dataclass(frozen=True)
class Served:
    """`live` and `engine` answer inputs by their names with the results in one order; None for what they refuse."""

    operation: Operation
    live: Ask
    engine: Ask
    name: str
    why: str

    @classmethod
    def of(cls, operation: Operation, folder: Path) -> "Served":
        """Exports the policy and has a builder choose its engine."""
        policy = OperationPolicy(operation)
        PolicySaver(policy).save(str(folder / "export"), verify=False)  # for time: tests/saver looks at that
        graph = open_export(folder / "export", folder / "graphs")
        bundle = Builder(graph).prepare(None, graph.digest, folder / "version").bundle
        engine = BundleLoader().load(graph, bundle)
        return cls(operation, _live(policy), _served(engine, graph.spec), bundle.engine, bundle.engine_reason)


def _live(policy: OperationPolicy) -> Ask:
    def ask(flat: Flat) -> list[np.ndarray] | None:
        rows = len(next(iter(flat.values())))
        observation = {name: tf.constant(array) for name, array in flat.items()}
        step = ts.TimeStep(tf.ones(rows, tf.int32), tf.zeros(rows), tf.ones(rows), observation)
        try:
            answer = policy.action(step).action
        except tf.errors.InvalidArgumentError:
            return None
        return [tensor.numpy() for tensor in tf.nest.flatten(answer)]

    return ask


def _served(engine: Engine, spec: Any) -> Ask:
    names = [leaf.name for _, leaf in leaves(spec.action)]

    def ask(flat: Flat) -> list[np.ndarray] | None:
        rows = len(next(iter(flat.values())))
        default = {"step_type": np.ones(rows, np.int32), "reward": np.zeros(rows, np.float32)}
        default["discount"] = np.ones(rows, np.float32)
        known = {f"observation/{name}": array for name, array in flat.items()} | default
        inputs = {leaf.name: known[path] for path, leaf in leaves(spec.inputs) if path in known}
        try:
            outputs = engine.run("action", inputs)
        except InputRefused:
            return None
        return [outputs[name] for name in names]

    return ask
