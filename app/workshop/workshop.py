"""One policy's workshop: opens the export, makes standby copies, restores checkpoints into them, verifies.

Every method blocks. All calls for one policy come from one thread, the control lane.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from app.engine.tensorflow import TensorFlowEngine
from app.errors import SwapRefused, UnusablePolicy
from app.workshop import checkpoints, probe
from app.workshop.load import Copy, Export, load_copy, metadata_of, open_export, stamp, train_step_of
from saver.artifact import GRAPH_FILE, CheckpointManifest, PolicySpec, ServingInfo


@dataclass(frozen=True)
class Weights:
    """What a standby holds once it is ready: which train step, the metadata by name; since when (Unix time)."""

    train_step: int
    loaded_at: float
    metadata: Mapping[str, np.ndarray[Any, Any]]


class Workshop:
    """Opened on an export's folder; raises `UnusablePolicy` where that is none."""

    def __init__(self, folder: Path) -> None:
        self._graph_stamp = stamp(folder / GRAPH_FILE)
        self._export: Export = open_export(folder)
        self._variables = checkpoints.variables_of(folder)
        self._copy: Copy | None = load_copy(self._export)
        self.spec: PolicySpec = self._export.spec
        self.digest: str = self._export.digest
        self.serving: ServingInfo = self._copy.serving

    def stale(self) -> bool:
        """Whether the graph in the folder has been replaced since it was opened."""
        return stamp(self._export.folder / GRAPH_FILE) != self._graph_stamp

    def reopened(self) -> Workshop:
        """The workshop of the graph that lies in the folder now.

        Raises:
          SwapRefused: it cannot be loaded, or its specs or distributions differ from those that serve.
        """
        try:
            fresh = Workshop(self._export.folder)
        except UnusablePolicy as error:
            raise SwapRefused(str(error)) from error
        if (fresh.spec, fresh.serving) != (self.spec, self.serving):
            raise SwapRefused("the new graph has other specs: a server started anew can serve it")
        return fresh

    def standby(self) -> TensorFlowEngine:
        """A copy with the export's weights that nobody uses yet.

        Raises:
          SwapRefused: the folder no longer holds the graph that was opened.
        """
        copy, self._copy = self._copy, None
        if copy is None:
            if self.stale():
                raise SwapRefused('the export was replaced; reload with {"export": true} loads the new one')
            try:
                copy = load_copy(self._export)
            except UnusablePolicy as error:
                raise SwapRefused(str(error)) from error
        return copy.engine

    def identify(self, folder: Path, rest_s: float) -> checkpoints.Identity:
        """See `checkpoints.identify`."""
        return checkpoints.identify(folder, rest_s)

    def check(self, folder: Path) -> int:
        """Judges a checkpoint as far as can be done without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve; the message says why.
        """
        promised = checkpoints.check(folder, self._variables)
        train_step = checkpoints.train_step_in(folder)
        _check_promise(promised, train_step)
        return train_step

    def weights(self, engine: TensorFlowEngine) -> Weights:
        """What the engine's copy holds, after a call on probe inputs that must go well.

        Raises:
          SwapRefused: the policy answers with something that its action spec excludes.
        """
        loaded_at = time.time()
        probe.check(engine, self.spec)
        return Weights(train_step_of(engine.model), loaded_at, metadata_of(engine.model))

    def restore(self, engine: TensorFlowEngine, folder: Path) -> Weights:
        """Puts a checkpoint's values into a standby copy, and verifies them.

        After an exception the copy may be half overwritten: it has to be thrown away.

        Raises:
          SwapRefused: the checkpoint may not serve; the message says why.
        """
        stamps = checkpoints.stamps(folder)
        promised = checkpoints.check(folder, self._variables)
        try:
            # A new object each time: one that is used again leaks (54 KiB a restore were measured).
            tf.train.Checkpoint(policy=engine.model).read(checkpoints.prefix(folder)).assert_consumed()
        except Exception as error:  # it has many kinds of errors for a file that changed under it
            raise SwapRefused(f"it cannot be restored: {str(error).strip().splitlines()[0][:200]}") from error
        if checkpoints.stamps(folder) != stamps:
            raise SwapRefused("it was replaced while it was read")
        weights = self.weights(engine)
        _check_promise(promised, weights.train_step)
        return weights


def _check_promise(promised: CheckpointManifest | None, train_step: int) -> None:
    if promised is not None and promised.train_step != train_step:
        raise SwapRefused(f"checkpoint.json says train step {promised.train_step}, the weights say {train_step}")
