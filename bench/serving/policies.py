"""Names of policies → their exports, each with a checkpoint of train step 700: `… policies FOLDER NAME …`.

A process of its own, so that the one that measures has no TensorFlow in it. What is there already is not made again.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.serving import exports
from saver.stderr import hushed

with hushed():
    import tensorflow as tf
    from tf_agents.networks import q_network, q_rnn_network, sequential
    from tf_agents.specs import tensor_spec

    from bench.harness.trainer import ACTION, STEPS, Trainer, greedy, q_policy_of
    from bench.serving.slow_layer import multiplications

FLOATS = tensor_spec.BoundedTensorSpec((4,), tf.float32, -1.0, 1.0, "observation")
IMAGE = tensor_spec.BoundedTensorSpec((84, 84, 4), tf.uint8, 0, 255, "observation")
SMALL = (100, 50)


def small(folder: Path) -> None:
    """Four floats, one action of two; fully connected layers of 100 and 50."""
    _publish(_trainer(q_policy_of(SMALL)), folder)


def recurrent(folder: Path) -> None:
    """The same with an LSTM of 32 between two layers: its state is two rows of 32 floats."""
    network = q_rnn_network.QRnnNetwork(
        FLOATS, ACTION, input_fc_layer_params=(50,), lstm_size=(32,), output_fc_layer_params=(50,)
    )
    _publish(_trainer(greedy(network, FLOATS)), folder)


def image(folder: Path) -> None:
    """Four frames of 84×84 pixels; the three convolutions and the layer of 512 of the network that plays Atari."""
    network = q_network.QNetwork(
        IMAGE,
        ACTION,
        preprocessing_layers=tf.keras.layers.Rescaling(1 / 255),
        conv_layer_params=((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        fc_layer_params=(512,),
    )
    _publish(_trainer(greedy(network, IMAGE)), folder)


def slow(folder: Path) -> None:
    """A call takes some 20 ms, and takes one row."""
    network = sequential.Sequential([multiplications(), tf.keras.layers.Dense(2)], input_spec=FLOATS)
    _publish(_trainer(greedy(network, FLOATS), batch_size=1), folder)


def many(folder: Path) -> None:
    """A hundred of the small one, each with weights of its own."""
    trainer = _trainer(q_policy_of(SMALL))
    first, *others = [folder / f"{number:03}" for number in range(exports.HOW_MANY)]
    trainer.export(first)
    for other in others:
        shutil.copytree(first, other)
    for policy in (first, *others):
        trainer.checkpoint(policy / "checkpoints")


def swapped(folder: Path) -> None:
    """The small one, and checkpoints beside it that nobody has published yet."""
    trainer = _trainer(q_policy_of(SMALL))
    _publish(trainer, folder)
    for _ in range(exports.SWAPS):
        trainer.checkpoint(folder / exports.READY)


MAKERS: dict[str, Callable[[Path], None]] = {
    exports.SMALL: small,
    exports.RECURRENT: recurrent,
    exports.IMAGE: image,
    exports.SLOW: slow,
    exports.MANY: many,
    exports.SWAPPED: swapped,
}


def _trainer(policy: Any, batch_size: int | None = None) -> Trainer:
    """Its first checkpoint has the train step that answers have."""
    return Trainer(policy, exports.TRAIN_STEP - STEPS, batch_size)


def _publish(trainer: Trainer, folder: Path) -> None:
    trainer.export(folder)
    trainer.checkpoint(folder / "checkpoints")


def main() -> None:
    """Makes each beside its place first, so that what is there is whole."""
    folder, *names = sys.argv[1:]
    for name in names:
        made = Path(folder, f".{name}")
        MAKERS[name](made)
        made.rename(Path(folder, name))


if __name__ == "__main__":
    main()
