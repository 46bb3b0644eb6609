import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from saver.artifact import (
    GRAPH_FILE,
    NOISE_UNIFORM,
    POLICY_FILE,
    DistributionInfo,
    IncompleteError,
    Leaf,
    Noise,
    PolicyManifest,
    PolicySpec,
    ServingInfo,
    Signature,
    TensorInfo,
    check_files,
    check_is_export,
    read_policy_manifest,
    write_policy_manifest,
)

NUMBERS = {name: Leaf(f"0/{name}", "float32", ()) for name in ("step_type", "reward", "discount")}
SPEC = PolicySpec(
    inputs={
        **NUMBERS,
        "observation": {"a": Leaf("0/observation/a", "float32", (None, 2), -math.inf, [[0.0, 1.0]])},
        "policy_state": (Leaf("1/0", "float32", (3,)),),
    },
    action=Leaf("action", "int64", (), 0, 1),
    state=(Leaf("state/0", "float32", (3,)),),
    info=(),
    initial_state=(Leaf("0", "float32", (3,)),),
    batch_size=None,
    takes_time_step=True,
    signatures={
        "action": Signature(
            {"0/observation/a": TensorInfo("float32", (None, None, 2)), "1/0": TensorInfo("float32", (None, 3))}
            | {leaf.name: TensorInfo("float32", (None,)) for leaf in NUMBERS.values()},
            {"action": TensorInfo("int64", (None,)), "state/0": TensorInfo("float32", (None, 3))},
        ),
        "get_initial_state": Signature(
            {"batch_size": TensorInfo("int32", ())}, {"0": TensorInfo("float32", (None, 3))}
        ),
        "get_metadata": Signature({}, {}),
    },
)
SERVING = ServingInfo(
    {"sample": Signature({NOISE_UNIFORM: TensorInfo("float32", (None, 2))}, {"action": TensorInfo("int64", (None,))})},
    {"action": DistributionInfo("mixture", ("mixture/probs",), ("mean",), {"components": {"family": "normal"}})},
    Noise(uniform=2, normal=0),
    {"greedy": "no mode", "distribution": "none", "log_prob": "none"},
)
MANIFEST = PolicyManifest(SPEC, "QPolicy", {"tensorflow": "2.21.0"}, {"saved_model.pb": "00ff"}, SERVING)


@pytest.mark.parametrize("serving", [SERVING, None])
def test_manifest_comes_back_as_it_was_written(tmp_path, serving):
    written = replace(MANIFEST, serving=serving)
    write_policy_manifest(tmp_path, written)
    assert read_policy_manifest(tmp_path) == written


def test_manifest_has_the_fields_of_the_format(tmp_path):
    write_policy_manifest(tmp_path, MANIFEST)
    data = json.loads((tmp_path / POLICY_FILE).read_text())
    assert set(data) == {
        "format", "policy_class", "written_with", "batch_size", "takes_time_step", "specs", "signatures", "serving",
        "files",
    }  # fmt: skip
    assert set(data["specs"]) == {"inputs", "action", "state", "info", "initial_state"}


@pytest.mark.parametrize("digest", [None, 7, [], {"sha256": "x"}])
def test_a_digest_that_is_no_text_is_one_that_no_file_has(tmp_path: Path, digest: object) -> None:
    (tmp_path / GRAPH_FILE).write_bytes(b"graph")
    write_policy_manifest(tmp_path, MANIFEST)
    data = json.loads((tmp_path / POLICY_FILE).read_text())
    (tmp_path / POLICY_FILE).write_text(json.dumps({**data, "files": {GRAPH_FILE: digest}}))
    manifest = read_policy_manifest(tmp_path)
    assert manifest is not None
    with pytest.raises(IncompleteError, match=f"{GRAPH_FILE} has sha256 .*, its manifest says"):
        check_files(tmp_path, manifest.files)


def test_export_without_manifest_is_one_of_another_saver(tmp_path):
    assert read_policy_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"specs": {}}, "lacks a usable field: 'inputs'"),
        ({"signatures": {"action": {}}}, "lacks a usable field: 'inputs'"),
        ({"serving": {"signatures": {}}}, "lacks a usable field: 'distributions'"),
        ({"serving": SERVING.to_json() | {"unavailable": {"greedy": "no mode"}}}, "no word of 'distribution'"),
        ({"files": 7}, "lacks a usable field"),
    ],
)
def test_manifest_that_cannot_be_used_says_why(tmp_path, change, says):
    write_policy_manifest(tmp_path, MANIFEST)
    path = tmp_path / POLICY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IncompleteError, match=says):
        read_policy_manifest(tmp_path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "is not a folder"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "holds no SavedModel: saved_model.pb is missing"),
        (lambda path: (path / GRAPH_FILE).mkdir(parents=True), "holds no SavedModel: saved_model.pb is missing"),
    ],
    ids=["nothing", "a file", "an empty folder", "a folder in its place"],
)
def test_folder_that_holds_no_policy_is_refused_at_once(tmp_path: Path, make, says):
    make(tmp_path / "policy")
    with pytest.raises(IncompleteError, match=says):
        check_is_export(tmp_path / "policy")
