"""Does an export answer as it should? Against the live policy when it is saved, against itself later on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from saver.artifact import (
    CHECKPOINTS_FOLDER,
    LOG_PROB,
    SERVING_FOLDER,
    IncompleteError,
    PolicyManifest,
    PolicySpec,
    check_files,
    check_is_export,
    leaves,
    read_checkpoint_manifest,
    read_policy_manifest,
)
from saver.artifact.literal_path import literal_path
from saver.artifact.probe import Arrays, outside_spec, probe_inputs, probe_noise
from saver.impure_ops import impurities
from saver.pairs import paired
from saver.specs import concrete

ROWS = 8
# Floats agree within TOLERANCE + TOLERANCE·|x|: two graphs of one policy may be optimised differently.
TOLERANCE = 1e-5
# What a graph raises over its inputs; the others when an action is not of the shape that the policy's own spec says.
_REFUSALS = (tf.errors.OpError, TypeError, ValueError)


class VerificationError(Exception):
    """The written export does not answer as it should; the message says what differs."""


class WeightsMoved(Exception):
    """The live policy was trained on while it was compared, so that nothing can be said."""


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. `detail` says what was compared, what is wrong, or why it was left out."""

    what: str
    result: Literal["ok", "failed", "skipped"]
    detail: str


def check_written(
    folder: Path,
    manifest: PolicyManifest,
    full: Mapping[str, Any],
    serving: Mapping[str, Any],
    variables: Sequence[tf.Variable],
) -> list[Finding]:
    """Loads the export in `folder` and compares its answers on probe inputs with those of the live policy.

    Args:
      folder: what was just written.
      manifest: its manifest.
      full: the live flat functions that the export has as signatures.
      serving: those that `serving/` has.
      variables: the live policy's.

    Returns:
      What could not be compared, as the policy refuses every probe input.

    Raises:
      VerificationError: they differ.
      WeightsMoved: they differ because the policy has been trained on meanwhile, in another thread.
    """
    findings = []
    with literal_path(folder) as path:
        for part, functions in (("", full), (f"{SERVING_FOLDER}/", serving)):
            live = {name: _Function(concrete(function)) for name, function in functions.items()}
            model = tf.saved_model.load(str(path / part))
            inputs = _probes(manifest, live)
            for name, function in live.items():
                loaded = _Function(model.signatures[name], by_name=True)
                findings.append(_compare(f"{part}{name}", function, loaded, inputs.get(name, {})))
    findings += _log_prob_of_samples(live, inputs)
    failed = [f"{finding.what} {finding.detail}" for finding in findings if finding.result == "failed"]
    if not failed:
        return [finding for finding in findings if finding.result == "skipped"]
    if not all(np.array_equal(a.numpy(), b.numpy()) for a, b in paired(model.model_variables, variables)):
        raise WeightsMoved("the policy was trained on while its export was compared with it")
    raise VerificationError(f"the export does not answer like the policy: {'; '.join(failed)}")


def verify_folder(folder: Path) -> list[Finding]:
    """Looks at everything in an export: its files, what it answers, and its checkpoints.

    What a full export holds of TFP's and TF-Agents' types loads only where these are installed; else only `serving/` is
    looked at, and a finding says so.
    """
    try:
        check_is_export(folder)
        manifest = read_policy_manifest(folder)
        if manifest is None:
            return [
                Finding(
                    "policy.json", "skipped", "is missing: TF-Agents' own PolicySaver leaves nothing to compare with"
                )
            ]
        check_files(folder, manifest.files)
    except IncompleteError as error:
        return [Finding("files", "failed", str(error))]
    findings = [Finding("files", "ok", f"{len(manifest.files)} files have the digests in policy.json")]
    lacking = _lacking_libraries()
    with literal_path(folder) as path:
        try:
            found = _answers(path, manifest, lacking)
        except Exception as error:  # whatever a graph makes TensorFlow raise
            found = [Finding("answers", "failed", _line(error))]
        found += _checkpoints(path, lacking)
    return findings + [replace(one, detail=one.detail.replace(str(path), str(folder))) for one in found]


def _lacking_libraries() -> str | None:
    """Imports the libraries whose types a full export refers to; what is not there, None where all is."""
    try:
        import tensorflow_probability  # noqa: F401 — registers its distributions' types
        import tf_agents.distributions
        import tf_agents.trajectories  # noqa: F401
    except ImportError as error:
        return _line(error)
    return None


def _full_model(folder: Path, lacking: str | None) -> Any:
    """The full export, loaded; the reason (a text) where a library that it needs is not there."""
    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:
        if lacking is None:
            raise
        return f"cannot be loaded here: {lacking} ({_line(error)})"


def _answers(folder: Path, manifest: PolicyManifest, lacking: str | None) -> list[Finding]:
    """Each function of both SavedModels is called; those that both have must agree."""
    full_model = _full_model(folder, lacking)
    both = ("action", "get_initial_state")
    if isinstance(full_model, str):
        findings, full = [Finding("export", "skipped", full_model)], {}
    else:
        findings, full = [], {name: _Function(f, by_name=True) for name, f in full_model.signatures.items()}
    if manifest.serving is None:
        inputs = _probes(manifest, full) if full else {}
        return findings + [_alone(name, full[name], inputs[name], manifest) for name in both if full]
    serving_model = tf.saved_model.load(str(folder / SERVING_FOLDER))
    serving = {name: _Function(f, by_name=True) for name, f in serving_model.signatures.items()}
    inputs = _probes(manifest, serving)
    if full:
        findings.append(_same_variables(full_model, serving_model))
        findings += [_compare(name, full[name], serving[name], inputs[name]) for name in both]
    else:
        findings += [_alone(name, serving[name], inputs[name], manifest) for name in both]
    findings += [_alone(name, serving[name], inputs[name], manifest) for name in manifest.serving.signatures]
    findings += [Finding(name, "skipped", f"unavailable: {why}") for name, why in manifest.serving.unavailable.items()]
    return findings + _log_prob_of_samples(serving, inputs)


def _log_prob_of_samples(functions: Mapping[str, _Function], inputs: Mapping[str, Arrays]) -> list[Finding]:
    """What `sample` says of its own action, beside what `log_prob` says of it."""
    if LOG_PROB not in functions or "sample" not in functions or LOG_PROB not in functions["sample"].outputs:
        return []
    try:
        drawn = functions["sample"](inputs["sample"])
        given = functions[LOG_PROB](inputs["sample"] | drawn)
    except _REFUSALS as error:
        return [Finding("log_prob of samples", "skipped", f"the policy refuses them: {_reason(error)}")]
    # A density is steep where an action is near its bound: an inverse has fewer digits there.
    close = np.isclose(given[LOG_PROB], drawn[LOG_PROB], rtol=1e-2, atol=1e-2, equal_nan=True).all()
    if not close:
        return [Finding("log_prob of samples", "failed", f"{_brief(drawn[LOG_PROB])}, alone {_brief(given[LOG_PROB])}")]
    return [Finding("log_prob of samples", "ok", "as log_prob says")]


def _same_variables(full: Any, serving: Any) -> Finding:
    first, second = (list(getattr(model, "model_variables", None) or ()) for model in (full, serving))
    if len(first) != len(second) or not all(same(a.numpy(), b.numpy()) for a, b in paired(first, second)):
        return Finding("weights", "failed", "differ between the export and its serving/")
    return Finding("weights", "ok", f"{len(first)} variables are the same in the export and in serving/")


def _checkpoints(folder: Path, lacking: str | None) -> list[Finding]:
    findings = []
    for path in sorted((folder / CHECKPOINTS_FOLDER).glob("[!.]*")):
        what = f"{CHECKPOINTS_FOLDER}/{path.name}"
        try:
            manifest = read_checkpoint_manifest(path)
            if manifest is None:
                findings.append(Finding(what, "skipped", "has no checkpoint.json"))
                continue
            check_files(path, manifest.files)
            model = _full_model(folder, lacking)
            if isinstance(model, str):
                model = tf.saved_model.load(str(folder / SERVING_FOLDER))  # the same checkpoints restore into it
            with literal_path(path / tf.saved_model.VARIABLES_DIRECTORY) as variables:
                prefix = str(variables / tf.saved_model.VARIABLES_FILENAME)
                tf.train.Checkpoint(policy=model).read(prefix).assert_consumed()
        except Exception as error:  # IncompleteError, and TensorFlow's many names for what does not fit
            findings.append(Finding(what, "failed", _line(error)))
        else:
            findings.append(Finding(what, "ok", f"train step {manifest.train_step}, restores into the export"))
    return findings


class _Function:
    """A flat concrete function: arrays by name in and out."""

    def __init__(self, function: Any, by_name: bool = False) -> None:
        self._function = function
        self._by_name = by_name
        self._dtypes = {s.name: s.dtype for s in tf.nest.flatten(function.structured_input_signature)}
        self.outputs = set(function.structured_outputs)
        self.impurities = impurities(function)

    def __call__(self, inputs: Mapping[str, Any]) -> Arrays:
        tensors = {name: tf.constant(inputs[name], dtype) for name, dtype in self._dtypes.items()}
        outputs = self._function(**tensors) if self._by_name else self._function(*tensors.values())
        return {name: np.asarray(tensor.numpy()) for name, tensor in outputs.items()}


def _probes(manifest: PolicyManifest, functions: Mapping[str, _Function]) -> dict[str, Arrays]:
    """Probe inputs for each function, by flattened name."""
    spec = manifest.spec
    inputs = _accepted(functions, spec)
    rows = max((len(array) for array in inputs.values()), default=ROWS)  # a policy may take nothing
    size = {"batch_size": np.asarray(rows)}
    probes = {"get_initial_state": size} | dict.fromkeys(("action", "distribution", "greedy", "sample"), inputs)
    if manifest.serving is not None and "sample" in functions:
        probes["sample"] = inputs | probe_noise(manifest.serving.noise, rows)
    if LOG_PROB in functions:
        actions = {
            leaf.name: np.zeros((rows, *(size or 1 for size in leaf.shape)), leaf.storage)
            for _, leaf in leaves(spec.action)
        }
        try:
            answer = functions["sample"](probes["sample"]) if "sample" in functions else functions["action"](inputs)
            actions = {name: answer[name] for name in actions}
        except _REFUSALS:
            pass  # and so will it be asked for these: that is a finding
        probes[LOG_PROB] = inputs | actions
    return probes


def _accepted(functions: Mapping[str, _Function], spec: PolicySpec) -> Arrays:
    """Inputs of `action`: the rows that the policy does not refuse, where there are any.

    One alone where it takes no more than one a call.
    """
    rows = spec.batch_size or ROWS
    try:
        initial = functions["get_initial_state"]({"batch_size": np.asarray(rows)})
    except _REFUSALS:
        rows, initial = 1, functions["get_initial_state"]({"batch_size": np.asarray(1)})
    inputs = probe_inputs(spec, initial, rows)
    if spec.batch_size is not None or _takes(functions["action"], inputs):
        return inputs
    alone = [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(rows)]
    good = [row for row in alone if _takes(functions["action"], row)]
    if not good:
        return inputs
    together = {name: np.concatenate([row[name] for row in good]) for name in inputs}
    return together if _takes(functions["action"], together) else good[0]


def _takes(action: _Function, inputs: Arrays) -> bool:
    try:
        action(inputs)
    except _REFUSALS:
        return False
    return True


def _compare(what: str, expected: _Function, found: _Function, inputs: Arrays) -> Finding:
    """Both are called; where the answers differ from call to call, only that they come can be seen."""
    try:
        wanted = None if expected.impurities else expected(inputs)
        came = found(inputs)
    except _REFUSALS as error:
        return Finding(what, "skipped", f"the policy refuses probe inputs: {_reason(error)}")
    if wanted is None:
        return Finding(what, "ok", _differs(found))
    return _agreement(what, wanted, came)


def _agreement(what: str, wanted: Arrays, came: Arrays) -> Finding:
    if wanted.keys() != came.keys():
        return Finding(what, "failed", f"answers with {sorted(came)}, expected {sorted(wanted)}")
    for name, array in wanted.items():
        if not same(array, came[name]):
            return Finding(what, "failed", f"{name} is {_brief(came[name])}, expected {_brief(array)}")
    return Finding(what, "ok", f"same answers: {', '.join(sorted(wanted))}" if wanted else "gives nothing, as expected")


def _alone(what: str, function: _Function, inputs: Arrays, manifest: PolicyManifest) -> Finding:
    try:
        outputs = function(inputs)
    except _REFUSALS as error:
        return Finding(what, "skipped", f"the policy refuses probe inputs: {_reason(error)}")
    for path, leaf in leaves(manifest.spec.action, "action"):
        problem = outside_spec(outputs[leaf.name], leaf) if leaf.name in outputs else None
        if problem is not None and leaf.is_float:  # of inputs that somebody has made up
            return Finding(what, "skipped", f"{path} {problem} for probe inputs: other inputs would say more")
        if problem is not None:
            return Finding(what, "failed", f"{path} {problem}")
    return Finding(what, "ok", f"answers inside its spec{', ' + _differs(function) if function.impurities else ''}")


def _differs(function: _Function) -> str:
    return f"draws or keeps something ({', '.join(function.impurities)}): only its form was looked at"


def same(expected: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays are equal, floats within `TOLERANCE`; NaN equals NaN."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if expected.dtype.kind in "fc" or expected.dtype.name == "bfloat16":
        wide = expected.astype(np.float64), found.astype(np.float64)
        return bool(np.isclose(wide[1], wide[0], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).all())
    return bool(np.array_equal(expected, found))


def _brief(array: np.ndarray[Any, Any]) -> str:
    text = np.array2string(array, threshold=8, precision=6).replace("\n", " ")
    return f"{array.dtype} {text[:120]}"


def _reason(error: Exception) -> str:
    """What a graph says, which stands above the name of the node; a stack trace may stand before it."""
    lines = str(error).partition("[[{{node")[0].strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
