"""An environment whose observations follow from the actions, and what a TF-Agents driver collects from it."""

from typing import Any

import numpy as np
from tf_agents.drivers import py_driver
from tf_agents.environments import py_environment
from tf_agents.trajectories import time_step as ts


class Drifting(py_environment.PyEnvironment):
    """Observations that follow from the actions; episodes of differing lengths. `rows` None: not batched.

    `length`: of the shortest episode; `truncates`: every other episode ends at a time limit, and not for good.
    """

    def __init__(
        self, spec: Any, action_spec: Any, rows: int | None = None, length: int = 4, truncates: bool = False
    ) -> None:
        self._spec, self._actions, self._rows = spec, action_spec, rows
        self._length, self._truncates, self._episodes = length, truncates, 0
        super().__init__()

    @property
    def batched(self) -> bool:
        return self._rows is not None

    @property
    def batch_size(self) -> int | None:
        return self._rows

    def observation_spec(self) -> Any:
        return self._spec

    def action_spec(self) -> Any:
        return self._actions

    def _reset(self) -> ts.TimeStep:
        self._ages = np.zeros(self._rows or 1, np.int64)
        self._places = np.linspace(-1, 1, self._rows or 1)
        return self._time_step(np.zeros(len(self._ages), bool))

    def _step(self, action: Any) -> ts.TimeStep:
        pushed = np.asarray(action, np.float64).reshape(len(self._ages), -1).sum(1)
        over = self._ages >= self._length + np.arange(len(self._ages))
        self._ages = np.where(over, 0, self._ages + 1)
        self._places = np.where(over, 0.3, self._places + 0.5 * np.tanh(pushed) - 0.2)
        return self._time_step(self._ages >= self._length + np.arange(len(self._ages)))

    def _time_step(self, over: Any) -> ts.TimeStep:
        first = self._ages == 0
        self._episodes += int(over.any())
        is_cut_off = self._truncates and self._episodes % 2 == 0
        kinds = np.where(first, ts.StepType.FIRST, np.where(over, ts.StepType.LAST, ts.StepType.MID)).astype(np.int32)
        returned = ts.TimeStep(
            kinds,
            np.where(first, 0, self._places).astype(np.float32),
            np.where(over & (not is_cut_off), 0, 1).astype(np.float32),
            _filled(self._spec, self._places),
        )
        return returned if self._rows is not None else _changed(lambda leaf: leaf[0], returned)


def _filled(spec: Any, places: Any) -> Any:
    """An observation [rows, …] that depends on the places."""

    def leaf(one: Any) -> Any:
        numbers = np.sin(np.add.outer(places, np.arange(np.prod(one.shape, dtype=int)))).reshape(-1, *one.shape)
        return (numbers if np.dtype(one.dtype).kind == "f" else 2 + 2 * numbers).astype(one.dtype)

    return _changed(leaf, spec)


def _changed(change: Any, nest: Any) -> Any:
    if isinstance(nest, dict):
        return {key: _changed(change, child) for key, child in nest.items()}
    if isinstance(nest, tuple):
        parts = [_changed(change, child) for child in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    return change(nest)


def collected(policy: Any, rows: int | None, steps: int = 24, **options: Any) -> list[Any]:
    """The trajectories, as nests of arrays; `options`: of the environment."""
    environment = Drifting(policy.time_step_spec.observation, policy.action_spec, rows, **options)
    found: list[Any] = []
    driver = py_driver.PyDriver(environment, policy, [found.append], max_steps=steps * (rows or 1))
    driver.run(environment.reset(), policy.get_initial_state(environment.batch_size or 1))
    return found


def assert_close(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, child in theirs.items():
            assert_close(ours[key], child)
    elif isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other)
    else:
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
