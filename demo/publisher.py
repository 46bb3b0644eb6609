"""The agent's collect policy → an export, and a checkpoint for each train step to be served."""

import time
from pathlib import Path

from demo.messages import Publication
from demo.trainer import Trainer  # first: it sets up the environment that TensorFlow needs
from saver import PolicySaver


class Publisher:
    """Writes one policy folder: the export once, then checkpoints under `checkpoints/`."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._train_step = trainer.train_step
        self._folder = folder
        self._saver = PolicySaver(trainer.agent.collect_policy, train_step=trainer.train_step)

    def export(self) -> None:
        """Writes the policy itself, with the weights it has now."""
        self._saver.save(str(self._folder))

    def publish(self) -> Publication:
        """Writes the weights as a checkpoint named by the train step, complete on return."""
        train_step = int(self._train_step.numpy())
        name = f"{train_step:010d}"
        checkpoint = self._folder / "checkpoints" / name
        self._saver.save_checkpoint(str(checkpoint))
        return Publication(name, train_step, _published_at(checkpoint))


def _published_at(checkpoint: Path) -> float:
    """Returns the moment when the folder got its name by a rename, which is its last change.

    On a busy machine the server may have swapped before the trainer is given the processor again,
    so that the clock read after saving says too late a time.
    """
    return time.monotonic() - (time.time() - checkpoint.stat().st_ctime)
