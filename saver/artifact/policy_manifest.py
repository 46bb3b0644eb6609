"""policy.json: an export's manifest, readable without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saver.artifact.agreement import check_agreement
from saver.artifact.files import IncompleteError, read_manifest, write_json
from saver.artifact.policy import PolicySpec, ServingInfo

POLICY_FILE = "policy.json"
GRAPH_FILE = "saved_model.pb"
FORMAT = 1


@dataclass(frozen=True)
class PolicyManifest:
    """The content of policy.json: the spec, the class of the policy, who wrote it, and each file's sha256.

    `serving` is None where the export has no `serving/`. `python_code` is what only the process that saved it can run.
    """

    spec: PolicySpec
    policy_class: str
    written_with: dict[str, str]
    files: dict[str, str]
    serving: ServingInfo | None = None
    python_code: tuple[str, ...] = ()


def check_is_export(folder: Path) -> None:
    """A first, cheap look at a folder that should hold a policy.

    Raises:
      IncompleteError: it is no folder, or no SavedModel lies in it.
    """
    if not folder.is_dir():
        raise IncompleteError(f"{folder} is not a folder")
    if not (folder / GRAPH_FILE).is_file():
        raise IncompleteError(f"{folder} holds no SavedModel: {GRAPH_FILE} is missing")


def write_policy_manifest(folder: Path, manifest: PolicyManifest) -> None:
    """Writes policy.json, the last file of an export."""
    write_json(
        folder / POLICY_FILE,
        {
            "format": FORMAT,
            "policy_class": manifest.policy_class,
            "written_with": manifest.written_with,
            **manifest.spec.to_json(),
            "serving": None if manifest.serving is None else manifest.serving.to_json(),
            **({"python_code": list(manifest.python_code)} if manifest.python_code else {}),
            "files": manifest.files,
        },
    )


def read_policy_manifest(folder: Path) -> PolicyManifest | None:
    """Reads policy.json; None where there is none (an export of tf-agents' own saver).

    Only the manifest is read; `check_files` compares the files with it.

    Raises:
      IncompleteError: policy.json is not what this version of the format says, or does not agree with itself.
    """
    data = read_manifest(folder / POLICY_FILE, FORMAT)
    if data is None:
        return None
    try:
        manifest = _from_json(data)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise IncompleteError(f"{POLICY_FILE} lacks a usable field: {error}") from None
    try:
        check_agreement(manifest.spec, manifest.serving)
    except ValueError as error:
        raise IncompleteError(f"{POLICY_FILE} does not agree with itself: {error}") from None
    return manifest


def _from_json(data: Mapping[str, Any]) -> PolicyManifest:
    return PolicyManifest(
        PolicySpec.from_json(data),
        str(data["policy_class"]),
        dict(data["written_with"]),
        {str(name): str(digest) for name, digest in data["files"].items()},
        ServingInfo.from_json(data["serving"]) if data.get("serving") else None,
        tuple(map(str, data.get("python_code", ()))),
    )
