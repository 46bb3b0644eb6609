"""A live policy in, a folder out: TF-Agents' PolicySaver with a manifest and atomic publishing."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saver import legacy_keras, libraries

# First: what these would raise themselves does not say what to do.
libraries.require("tensorflow", "tf_agents")
legacy_keras.check()

import tensorflow as tf
import tf_agents
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.specs import tensor_spec
from tf_agents.typing import types

from saver.artifact import (
    CHECKPOINT_FILE,
    SERVING_FOLDER,
    PolicyManifest,
    PolicySpec,
    hash_files,
    prune_checkpoints,
    write_checkpoint_manifest,
    write_policy_manifest,
)
from saver.artifact.literal_path import literal_path
from saver.artifact.publishing import publish, publish_over, staged_folder
from saver.artifact.streaming_hash import StreamingHash
from saver.impure_ops import python_code, seed_of
from saver.serving import Interface, ServingFunctions, serving_functions
from saver.serving_model import save_serving
from saver.specs import PolicySpecs, concrete, spec_of
from saver.verify import WeightsMoved, check_written

log = logging.getLogger("policy_saver")
_SIGNATURES = ("action", "get_initial_state", "get_train_step", "get_metadata")
_TRAIN_STEP_KEY = "train_step/.ATTRIBUTES/VARIABLE_VALUE"


class PythonCodeWarning(UserWarning):
    """The saved policy runs Python code (`numpy_function`, `py_function`): it works in the process that saved it."""


class PolicySaver(policy_saver.PolicySaver):
    """TF-Agents' PolicySaver (same arguments, properties and methods), whose folders a server can trust.

    `save` adds `serving/` and `policy.json`, `save_checkpoint` adds `checkpoint.json`. Both write beside the
    destination and then rename, so that a reader who compares digests takes the old one, the new one, or none, and
    never a mixture.

    The arguments and their errors are those of `tf_agents.policies.policy_saver.PolicySaver` 0.19.0, but for two that
    it takes and should not: a Boolean `batch_size` (ValueError), and `metadata` that is no dictionary (TypeError).
    """

    # Seven parameters, in this order: TF-Agents' own signature, which trainers' programs call by position.
    def __init__(
        self,
        policy: tf_policy.TFPolicy,
        batch_size: int | None = None,
        use_nest_path_signatures: bool = True,
        seed: types.Seed | None = None,
        train_step: tf.Variable | None = None,
        input_fn_and_spec: policy_saver.InputFnAndSpecType | None = None,
        metadata: dict[str, tf.Variable] | None = None,
    ) -> None:
        if isinstance(batch_size, bool):
            raise ValueError(f"Expected batch_size == None or python int > 0, saw: {batch_size}")
        if metadata is not None and not isinstance(metadata, dict):
            raise TypeError(f"metadata must be a dictionary of tf.Variable, saw: {type(metadata)}")
        if input_fn_and_spec is not None:
            input_fn_and_spec = (input_fn_and_spec[0], _named(input_fn_and_spec[1]))
        super().__init__(policy, batch_size, use_nest_path_signatures, seed, train_step, input_fn_and_spec, metadata)
        # The base class does not keep this argument, and policy.json states it.
        self._input_fn: Any
        self._input_spec: Any
        self._input_fn, self._input_spec = input_fn_and_spec or (None, None)

    def spec(self) -> PolicySpec:
        """The spec that policy.json will hold: nests with flattened names, bounds, signatures."""
        policy = self._raw_policy
        specs = PolicySpecs(
            time_step=policy.time_step_spec,
            policy_state=policy.policy_state_spec,
            action=policy.action_spec,
            info=policy.info_spec,
            custom_input=self._input_spec,
        )
        functions = {name: concrete(function) for name, function in self._policy_signatures().items()}
        return spec_of(functions, specs, self._batch_size)

    def _policy_signatures(self) -> dict[str, Any]:
        """Those that TF-Agents makes; a program may put others into `signatures`, which are saved as they are."""
        return {name: self.signatures[name] for name in _SIGNATURES if name in self.signatures}

    def save(
        self,
        export_dir: str | os.PathLike[str],
        options: tf.saved_model.SaveOptions | None = None,
        *,
        verify: bool = True,
    ) -> None:
        """Saves the policy to the local folder `export_dir`; `checkpoints/` in it is left alone.

        Over an earlier export the files are replaced one by one, policy.json last: until then its digests
        do not hold, and a reader that checks them waits. Files that only the earlier export had are deleted; whatever
        else lies in the folder stays.

        Args:
          export_dir: the folder; its parents are made where they are missing.
          options: for the full export, as in `tf.saved_model.save`.
          verify: load what was written and compare its answers with those of the live policy, before anything
            is published. In TF1's graph mode there is neither this nor `serving/`, and a warning says so.

        Warns:
          PythonCodeWarning: the policy runs Python code, which no other process can; `python_code` in policy.json.

        Raises:
          VerificationError: what was written answers otherwise; nothing is published.
        """
        destination = Path(os.path.realpath(_local(export_dir)))  # a link's own disk is the one to write on
        with staged_folder(destination) as staged:
            super().save(str(staged), options)
            serving = self._serving if tf.executing_eagerly() else None
            if serving is not None:
                signatures = self._serving_signatures() | serving.functions
                save_serving(self.policy, signatures, staged / SERVING_FOLDER)
                self._warn_of_seeds(destination, serving)
            files = hash_files(staged, [path for path in staged.rglob("*") if path.is_file()])
            python = self._python_code()
            manifest = PolicyManifest(
                self.spec(),
                type(self._raw_policy).__name__,
                _written_with(),
                files,
                None if serving is None else serving.info,
                tuple(python),
            )
            write_policy_manifest(staged, manifest)
            if serving is None:
                log.warning("%s: in graph mode there is no serving/ and no verification", destination)
            elif verify:
                self._verify(staged, destination, manifest, signatures)
            publish_over(staged, destination)
        if python:
            warnings.warn(
                f"{destination} cannot be served: it runs Python code, which only this process has and no SavedModel "
                f"({'; '.join(python)}); write it with TensorFlow operations",
                PythonCodeWarning,
                stacklevel=2,
            )

    def _python_code(self) -> list[str]:
        """What of the exported functions is Python code, and so works in this process only."""
        functions = {name: concrete(self.signatures[name]) for name in ("action", "get_initial_state")}
        return [f"{name}: {code}" for name, function in functions.items() for code in python_code(function)]

    def _warn_of_seeds(self, destination: Path, serving: ServingFunctions) -> None:
        """Warns of draws that repeat after each start of a server, since TensorFlow has to make them."""
        seed = seed_of(concrete(self.signatures["action"]))
        why = serving.info.unavailable.get("sample")
        if seed == "own":
            log.warning(
                "%s: action draws from a seed that was given (as PolicySaver's seed=), and so the same again after "
                "each start of a server, which runs it by TensorFlow; without one it draws afresh, and can be compiled",
                destination,
            )
        elif seed == "global" and why is not None:
            log.warning(
                "%s: action draws from tf.random.set_seed, and so the same again after each start of a server "
                "that has to run it by TensorFlow; it has no sample: %s",
                destination,
                why,
            )

    def _verify(self, staged: Path, destination: Path, manifest: PolicyManifest, serving: dict[str, Any]) -> None:
        try:
            functions = self._policy_signatures()
            skipped = check_written(staged, manifest, functions, serving, self.policy.model_variables)
        except WeightsMoved as moved:
            log.warning("%s: not verified, %s", staged, moved)
        else:
            if skipped:
                names = ", ".join(finding.what for finding in skipped)
                log.warning("%s: not compared with the policy: %s: %s", destination, names, skipped[0].detail)

    def _serving_signatures(self) -> dict[str, Any]:
        """What `serving/` has beside the functions of `saver.serving`."""
        train_step, metadata = self._train_step, self._metadata
        # By name: TF-Agents keys these two by dtype, so that all but one metadata of a dtype are lost.
        return {
            "action": self.signatures["action"],
            "get_initial_state": self.signatures["get_initial_state"],
            "get_train_step": tf.function(lambda: {"train_step": tf.identity(train_step)}, input_signature=[]),
            "get_metadata": tf.function(
                lambda: {name: tf.identity(value) for name, value in metadata.items()}, input_signature=[]
            ),
        }

    @functools.cached_property
    def _serving(self) -> ServingFunctions:
        batched = [
            tf.TensorSpec([self._batch_size, *spec.shape], spec.dtype, spec.name)
            for spec in tf.nest.flatten(self.action_input_spec)
        ]

        def arguments(tensors: Sequence[tf.Tensor]) -> tuple[Any, Any]:
            packed = tf.nest.pack_sequence_as(self.action_input_spec, list(tensors))
            return packed if self._input_fn is None else self._input_fn(*packed)

        interface = Interface(batched, arguments, self.policy_step_spec, self._batch_size)
        return serving_functions(
            self._raw_policy, interface, self.signatures["action"], self.signatures["get_initial_state"]
        )

    def save_checkpoint(
        self,
        export_dir: str | os.PathLike[str],
        options: tf.train.CheckpointOptions | None = None,
        *,
        keep_last: int | None = None,
    ) -> None:
        """Saves the variables to `export_dir/variables/`, with `export_dir/checkpoint.json` beside them.

        Args:
          export_dir: the folder; its parents are made where they are missing.
          options: as in `tf.train.Checkpoint.write`; not for asynchronous writing.
          keep_last: how many checkpoints stay in the folder around `export_dir`: this one, and the others of
            the highest train steps (ties: natural name order). Only folders with a checkpoint.json are
            deleted. None deletes nothing.

        Raises:
          ValueError: the policy has no variables (as TF-Agents' own saver does), `options` ask for asynchronous
            writing, `keep_last` is no integer of at least 1, or `export_dir` holds something else than a checkpoint.
            Nothing is written.
          OSError, tf.errors.OpError: the disk is full or cannot be written. An earlier checkpoint stays.
        """
        _check_options(options, keep_last)
        destination = _local(export_dir)
        _check_is_checkpoint(destination)
        with staged_folder(destination) as staged:
            with StreamingHash(staged) as hashes:
                self._write_checkpoint(staged, options)
            # Read back and not from the variable: a trainer in another thread may have moved on.
            with literal_path(staged) as path:
                written = tf.train.load_checkpoint(str(path / "variables" / "variables"))
                train_step = _as_train_step(written.get_tensor(_TRAIN_STEP_KEY))
            write_checkpoint_manifest(staged, train_step, hashes.of)
            publish(staged, destination)
        if keep_last is not None:
            prune_checkpoints(destination, keep_last)

    def _write_checkpoint(self, folder: Path, options: tf.train.CheckpointOptions | None) -> None:
        """As TF-Agents' own saver does, with the metadata under the name that it has in an export's variables.

        Only so do the graph of an export and the variables of a checkpoint make a full model.
        """
        checkpoint = tf.train.Checkpoint(
            policy=self.policy,
            model_variables=self.policy.model_variables,
            train_step=self._train_step,
            metadata=self.policy.metadata,
        )
        checkpoint.write(str(folder / "variables" / "variables"), options)


def _check_options(options: tf.train.CheckpointOptions | None, keep_last: int | None) -> None:
    if options is not None and options.experimental_enable_async_checkpoint:
        raise ValueError(
            "options ask for asynchronous writing: expected synchronous ones, as checkpoint.json lists the sha256 of "
            "finished files; call save_checkpoint in a thread of its own instead"
        )
    if keep_last is not None and (type(keep_last) is not int or keep_last < 1):
        raise ValueError(f"keep_last is {keep_last!r}: expected None or an integer of at least 1")


def _check_is_checkpoint(folder: Path) -> None:
    """A checkpoint replaces the folder: nothing else may be in it."""
    if not folder.is_dir():
        return
    others = sorted({path.name for path in folder.iterdir()} - {"variables", CHECKPOINT_FILE})
    if others:
        raise ValueError(f"{folder} holds {others[0]!r}: expected a folder of the checkpoint's own, or none yet")


def _as_train_step(value: Any) -> int:
    """-1, which means unknown, for what is no number; TF-Agents takes any variable for a train step."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1


def _named(input_spec: Any) -> Any:
    """`input_spec` with the names that TensorFlow will give to leaves without one, or with one that is taken."""
    taken: set[str] = set()
    named = []
    for index, leaf in enumerate(tf.nest.flatten(input_spec)):
        wanted = leaf.name or f"input_list_{index}"
        numbered = (f"{wanted}_{number}" for number in itertools.count(1))
        name = next(name for name in itertools.chain([wanted], numbered) if name not in taken)
        taken.add(name)
        named.append(leaf if name == leaf.name else _renamed(leaf, name))
    return tf.nest.pack_sequence_as(input_spec, named)


def _renamed(leaf: Any, name: str) -> tf.TensorSpec:
    if isinstance(leaf, tensor_spec.BoundedTensorSpec):
        return tensor_spec.BoundedTensorSpec(leaf.shape, leaf.dtype, leaf.minimum, leaf.maximum, name)
    return tf.TensorSpec(leaf.shape, leaf.dtype, name)


def _local(folder: str | os.PathLike[str]) -> Path:
    text = os.fspath(folder)
    if "://" in text:
        raise ValueError(f"{text!r}: expected a local folder; a remote one cannot be renamed into place")
    return Path(text).absolute()


def _written_with() -> dict[str, Any]:
    """By what the libraries say themselves: each is published under several names."""
    return {"tensorflow": tf.__version__, "tf-agents": tf_agents.__version__}
