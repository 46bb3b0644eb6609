"""Exports of the zoo and of policies of one's own, compiled: shared by the tests of LiteRT."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tf_agents.policies import tf_policy

from app.artifacts.bundle import Graph
from app.builder.compile import Compiler
from app.engine.litert import LiteRTEngine
from app.engine.savedmodel.engine import TensorFlowEngine
from app.engine.savedmodel.load import load_copy
from saver import PolicySaver
from tests.support.opened import opened
from tests.zoo.kinds import KINDS, make


@dataclass(frozen=True)
class Opened:
    """An export, and a copy of it."""

    export: Graph
    engine: TensorFlowEngine

    def other(self) -> "Opened":
        """Another copy of the same export, with other weights."""
        other = Opened(self.export, load_copy(self.export))
        other.change(seed=1)
        return other

    def change(self, seed: int) -> None:
        """Gives the copy random weights, all positive."""
        generator = np.random.default_rng(seed)
        for variable in self.engine.model.model_variables:
            if variable.dtype.is_floating:
                variable.assign(tf.constant(generator.uniform(0.1, 1.0, variable.shape), variable.dtype))

    def weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.engine.model.model_variables]

    def compiler(self) -> Compiler:
        return Compiler(self.engine, self.export.spec, self.export.serving)


@dataclass(frozen=True)
class Compiled:
    """A copy with its compiler, and the engine of what it compiled."""

    opened: Opened
    compiler: Compiler
    file: Path
    engine: LiteRTEngine


class CompiledPolicies:
    """Opens and compiles policies by name, each when it is first asked for. Tests may not change their weights."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[str, Opened] = {}
        self._compiled: dict[str, Compiled] = {}

    def opened(self, kind: str) -> Opened:
        """A kind of the zoo."""
        if kind not in self._opened:
            self.open(kind, lambda: PolicySaver(make(KINDS[kind], seed=7), **KINDS[kind].options()))
        return self._opened[kind]

    def open(self, name: str, saver: Callable[[], PolicySaver]) -> Opened:
        """Any policy."""
        if name not in self._opened:
            saver().save(self._folder / name, verify=False)  # for time: tests/saver looks at that
            export = opened(self._folder / name)
            self._opened[name] = Opened(export, load_copy(export))
        return self._opened[name]

    def of(self, policy: Callable[[], tf_policy.TFPolicy]) -> Opened:
        """A policy that a function makes; its name is the function's."""
        return self.open(policy.__name__, lambda: PolicySaver(policy()))

    def compiled(self, kind: str) -> Compiled:
        if kind not in self._compiled:
            there = self.opened(kind)
            compiler = there.compiler()
            file = self._folder / f"{kind}.tflite"
            compiler.compile(there.engine, file)
            self._compiled[kind] = Compiled(
                there, compiler, file, LiteRTEngine(file, there.export.spec, there.export.serving.noise)
            )
        return self._compiled[kind]
