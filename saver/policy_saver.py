"""A live policy in, a folder out: TF-Agents' PolicySaver with a manifest and atomic publishing."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf_agents.policies import policy_saver, tf_policy
from tf_agents.typing import types

from saver.artifact import (
    PolicyManifest,
    PolicySpec,
    hash_files,
    write_checkpoint_manifest,
    write_policy_manifest,
)
from saver.artifact.files import publish, publish_over, staged_folder
from saver.specs import PolicySpecs, spec_of

_TRAIN_STEP_KEY = "train_step/.ATTRIBUTES/VARIABLE_VALUE"


class PolicySaver(policy_saver.PolicySaver):
    """TF-Agents' PolicySaver (same arguments, properties and methods), whose folders a server can trust.

    `save` adds `policy.json`, `save_checkpoint` adds `checkpoint.json`; both write beside the destination
    and rename, so that a reader finds the old folder, the new one, or none, and never half of one.

    The arguments and their errors are those of `tf_agents.policies.policy_saver.PolicySaver` 0.19.0.
    """

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
        super().__init__(policy, batch_size, use_nest_path_signatures, seed, train_step, input_fn_and_spec, metadata)
        # The base class forgets this argument, and policy.json has to tell it.
        self._input_spec = None if input_fn_and_spec is None else input_fn_and_spec[1]

    def spec(self) -> PolicySpec:
        """What policy.json will say about the policy: nests with flattened names, bounds, signatures."""
        policy = self._raw_policy
        specs = PolicySpecs(
            time_step=policy.time_step_spec,
            policy_state=policy.policy_state_spec,
            action=policy.action_spec,
            info=policy.info_spec,
            custom_input=self._input_spec,
        )
        functions = {name: function.get_concrete_function() for name, function in self.signatures.items()}
        return spec_of(functions, specs, self._batch_size)

    def save(self, export_dir: str | os.PathLike[str], options: tf.saved_model.SaveOptions | None = None) -> None:
        """Saves the policy to the local folder `export_dir`; `checkpoints/` in it is left alone.

        Over an earlier export the files are replaced one by one, policy.json last: until then its digests
        do not hold, and a reader that checks them waits.
        """
        destination = _local(export_dir)
        with staged_folder(destination) as staged:
            super().save(str(staged), options)
            files = hash_files(staged, [path for path in staged.rglob("*") if path.is_file()])
            write_policy_manifest(
                staged,
                PolicyManifest(self.spec(), type(self._raw_policy).__name__, _written_with(), files),
            )
            if destination.exists():
                publish_over(staged, destination)
            else:
                publish(staged, destination)

    def save_checkpoint(
        self, export_dir: str | os.PathLike[str], options: tf.train.CheckpointOptions | None = None
    ) -> None:
        """Saves the variables to `export_dir/variables/`, with `export_dir/checkpoint.json` beside them.

        Raises:
          ValueError: the policy has no variables (as TF-Agents' own saver does).
        """
        destination = _local(export_dir)
        with staged_folder(destination) as staged:
            super().save_checkpoint(str(staged), options)
            # Read back and not from the variable: a trainer in another thread may have moved on.
            written = tf.train.load_checkpoint(str(staged / "variables" / "variables"))
            write_checkpoint_manifest(staged, int(written.get_tensor(_TRAIN_STEP_KEY)))
            publish(staged, destination)


def _local(folder: str | os.PathLike[str]) -> Path:
    text = os.fspath(folder)
    if "://" in text:
        raise ValueError(f"{text!r}: expected a local folder; a remote one cannot be renamed into place")
    return Path(text).absolute()


def _written_with() -> dict[str, Any]:
    return {name: version(name) for name in ("tensorflow", "tf-agents")}
