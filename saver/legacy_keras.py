"""Keras 2 for TF-Agents: TensorFlow 2.15 has no other, newer ones take it from the package tf_keras when asked.

TensorFlow reads the wish from the environment when it is imported, so that it has to stand there before.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, version

VARIABLE = "TF_USE_LEGACY_KERAS"
_WISHES = ("1", "true", "True")
_FIRST_WITH_KERAS_3 = (2, 16)
# TensorFlow is published under one of these names.
_DISTRIBUTIONS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-macos",
    "tensorflow-intel",
    "tensorflow-cpu-aws",
    "tensorflow-rocm",
    "tf-nightly",
    "tf-nightly-cpu",
)


def choose() -> None:
    """Asks for Keras 2 where TensorFlow needs to be asked, can give it, and has not been imported yet.

    A wish that stands in the environment, whatever it is, stays.
    """
    if VARIABLE not in os.environ and "tensorflow" not in sys.modules and _is_asked_for() and _has_tf_keras():
        os.environ[VARIABLE] = "1"


def check() -> None:
    """Makes sure that TF-Agents gets Keras 2.

    Raises:
      ImportError: it does not; the message says in one line what to do.
    """
    wished = os.environ.get(VARIABLE) in _WISHES
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        if not _is_keras_3(tensorflow):
            return
        raise ImportError(
            "TensorFlow was imported with Keras 3, and TF-Agents needs Keras 2: "
            + (_INSTALL if not _has_tf_keras() else f"import saver before TensorFlow, or set {VARIABLE}=1 before both")
        )
    if wished and not _has_tf_keras():
        raise ImportError(
            f"{VARIABLE} is set, and tf_keras is not installed: "
            + (_INSTALL if _is_asked_for() else "leave it unset, this TensorFlow has Keras 2 of its own")
        )
    if not wished and _is_asked_for():
        raise ImportError(
            "this TensorFlow comes with Keras 3, and TF-Agents needs Keras 2: "
            + (f"set {VARIABLE}=1, now it is {os.environ[VARIABLE]!r}" if VARIABLE in os.environ else _INSTALL)
        )


_INSTALL = "pip install tf_keras, of the version that TensorFlow has"


def _is_keras_3(tensorflow: object) -> bool:
    keras = getattr(tensorflow, "keras", None)
    return str(getattr(keras, "__version__", "2")).split(".")[0] not in ("1", "2")


def _is_asked_for() -> bool:
    """Whether the installed TensorFlow gives Keras 3 unless it is asked for another."""
    for name in _DISTRIBUTIONS:
        try:
            numbers = version(name).split(".")
        except PackageNotFoundError:
            continue
        return (int(numbers[0]), int(numbers[1])) >= _FIRST_WITH_KERAS_3
    return False


def _has_tf_keras() -> bool:
    return importlib.util.find_spec("tf_keras") is not None
