"""Trainers that publish and simulators that note what they send and get: rows as a server should record them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from saver import PolicySaver
from saver.artifact import Leaf, PolicySpec, leaves
from tests.support import policies
from tests.support.server import RunningServer

FIRST, MID, LAST = 0, 1, 2


class Trainer:
    """A policy of tests/support/policies.py whose weights are drawn from the train step; it publishes them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.policy = policies.make(name)
        self._train_step = tf.Variable(0, dtype=tf.int64)
        self._saver = PolicySaver(self.policy, train_step=self._train_step, **policies.MAKERS[name][1])
        self.take(0)
        self._saver.save(str(folder), verify=False)

    def take(self, train_step: int) -> None:
        """Takes the weights of a train step."""
        draw = np.random.default_rng(train_step)
        for variable in self.policy.variables():
            variable.assign(draw.normal(0, 0.7, variable.shape))
        self._train_step.assign(train_step)

    def publish(self, train_step: int) -> str:
        self.take(train_step)
        name = f"{train_step:010d}"
        self._saver.save_checkpoint(str(self.folder / "checkpoints" / name))
        return name


class Simulator:
    """One session with `rows` environments, or one that is no batch (None). Notes what it sends and gets."""

    def __init__(
        self, server: RunningServer, policy: str, spec: PolicySpec, name: str, rows: int | None = None, **options: Any
    ) -> None:
        self._root = f"/v1/policies/{policy}/sessions"
        self._http, self._spec, self._rows, self._options = server.http, spec, rows, options
        self.id = name
        self._draw = np.random.default_rng(list(name.encode()))
        self._next_type = FIRST
        self.events: list[dict[str, Any]] = []

    def step(self, last: bool = False) -> None:
        """One step; `last`: it ends the episode. The next one begins another."""
        step_type = LAST if last else self._next_type
        self._next_type = FIRST if last else MID
        rows = self._rows or 1
        inputs = self._spec.inputs
        observation = self._value(inputs["observation"])
        reward = np.full(rows, 0 if step_type == FIRST else self._draw.normal(), np.float32)
        discount = np.full(rows, 0 if last else 1, np.float32)
        body: dict[str, Any] = {"observation": self._sent(inputs["observation"], observation)}
        types = np.full(rows, step_type, np.int32)
        for name, array in (("step_type", types), ("reward", reward), ("discount", discount)):
            body[name] = array.tolist() if self._rows else array[0].item()
        if self._options:
            body["options"] = self._options
        if self.events:
            answer = self._http.post(f"{self._root}/{self.id}/action", json=body)
        else:
            answer = self._http.post(self._root, json=body | {"id": self.id})
        found = answer.raise_for_status().json()
        self.events.append(
            {"observation": observation, "step_type": types, "reward": reward, "discount": discount, "answer": found}
        )

    def rows_of(self) -> dict[str, list[Any]]:
        """The rows: each step with what came with the next observation."""
        found: dict[str, list[Any]] = defaultdict(list)
        for step, (event, after) in enumerate(zip(self.events, self.events[1:], strict=False)):
            answer = event["answer"]
            for row in range(self._rows or 1):
                found["step_type"].append(event["step_type"][row])
                for path, leaf in leaves(self._spec.inputs["observation"], "observation"):
                    found[path].append(event["observation"][leaf.name][row])
                for top, nest in (("action", self._spec.action), ("policy_info", self._spec.info)):
                    for path, leaf in leaves(nest, top):
                        value = _at(answer[top.removeprefix("policy_")], path.removeprefix(top))
                        found[path].append(np.array(value if self._rows is None else value[row], leaf.storage))
                for name in ("reward", "discount"):
                    found[name].append(after[name][row])
                found["next_step_type"].append(after["step_type"][row])
                found["version"].append(answer["version"])
                found["train_step"].append(answer["train_step"])
                found["session"].append(self.id)
                found["run_id"].append("run")
                found["incarnation"].append("start")
                found["row"].append(row)
                found["step"].append(step)
                found["time_ns"].append(step)
                log_prob = answer.get("log_prob", np.nan)
                found["log_prob"].append(log_prob if self._rows is None or np.isscalar(log_prob) else log_prob[row])
                options = self._options
                mode = options.get("mode", "sample" if options.keys() & {"seed", "log_prob"} else "")
                found["mode"].append(mode)
                found["seed"].append(options.get("seed", -1))
        return found

    def _value(self, nest: Any) -> dict[str, np.ndarray]:
        """[rows, …] by flattened name, within the bounds."""
        rows = self._rows or 1
        values = {}
        for _, leaf in leaves(nest):
            shape = (rows, *leaf.shape)
            if leaf.is_integer:
                values[leaf.name] = self._draw.integers(0, 5, shape).astype(leaf.storage)
            else:
                values[leaf.name] = self._draw.normal(size=shape).astype(leaf.storage)
        return values

    def _sent(self, nest: Any, values: dict[str, np.ndarray]) -> Any:
        if isinstance(nest, Leaf):
            array = values[nest.name]
            return array.tolist() if self._rows else array[0].tolist()
        if isinstance(nest, dict):
            return {name: self._sent(child, values) for name, child in nest.items()}
        return [self._sent(child, values) for child in nest]


def _at(answer: Any, path: str) -> Any:
    for key in path.strip("/").split("/") if path else ():
        answer = answer[int(key)] if isinstance(answer, list) else answer[key]
    return answer


def together(simulators: Sequence[Simulator]) -> dict[str, list[Any]]:
    """All rows, in the order of their steps."""
    found: dict[str, list[Any]] = defaultdict(list)
    for simulator in simulators:
        for name, values in simulator.rows_of().items():
            found[name] += values
    order = np.argsort(found["step"], kind="stable").tolist()
    return {name: [values[place] for place in order] for name, values in found.items()}
