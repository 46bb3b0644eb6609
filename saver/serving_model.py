"""The SavedModel in `serving/`: written, and what its variables are called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from saver.artifact.literal_path import literal_path


def save_serving(saved_policy: tf.Module, signatures: dict[str, Any], folder: Path) -> None:
    """Writes the SavedModel of `signatures`, over the variables of a full export.

    The graph is the smallest that any checkpoint of the policy restores into. Its variables are the very files of the
    full export (linked, where the disk can), so that both have the same weights also while the policy is trained on.

    Args:
      saved_policy: what TF-Agents' PolicySaver saves: `model_variables`, `train_step`, `metadata`, and more.
      signatures: the flat functions by name.
      folder: where to; the full export lies around it.
    """
    expected = variable_keys(folder.parent)
    module = tf.Module()
    for name in ("model_variables", "train_step", "metadata", "get_train_step", "get_metadata"):
        setattr(module, name, getattr(saved_policy, name))
    try:
        tf.saved_model.save(module, str(folder), signatures)
        if variable_keys(folder) == expected:
            _share_variables(folder)
            return
    except AssertionError:
        pass  # a function uses a look-up table or a variable that the policy does not list
    shutil.rmtree(folder, ignore_errors=True)
    module._all_assets = saved_policy._all_assets
    tf.saved_model.save(module, str(folder), signatures)
    if variable_keys(folder) == expected:
        _share_variables(folder)


def _share_variables(folder: Path) -> None:
    shutil.rmtree(folder / tf.saved_model.VARIABLES_DIRECTORY)
    shutil.copytree(
        folder.parent / tf.saved_model.VARIABLES_DIRECTORY,
        folder / tf.saved_model.VARIABLES_DIRECTORY,
        copy_function=_link_or_copy,
    )


def _link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination)
    except OSError:  # not on every file system
        shutil.copy2(source, destination)


def variable_keys(folder: Path) -> set[str]:
    """The keys of the values in a SavedModel's variables."""
    with literal_path(folder) as path:
        prefix = str(path / tf.saved_model.VARIABLES_DIRECTORY / tf.saved_model.VARIABLES_FILENAME)
        return {key for key, _ in tf.train.list_variables(prefix)}
