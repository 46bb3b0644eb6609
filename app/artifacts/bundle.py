"""Results of the builder for the workers, as folders of files: a policy's graph, and each version that may serve.

    graphs/<digest>/graph.json         what the policy takes and gives: readable without TensorFlow
                    serving/…          the SavedModel that TensorFlow runs; a plain export's lies in `plain/`
    versions/<digest>/bundle.json      which version it is, and what runs it
                      variables/…      the checkpoint's values; beside them what identifies it where it is an export
                      model.tflite     the same compiled, where that was proved equal

Both manifests are written last and list the sha256 of every file. Nothing in such a folder changes once it is there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from saver.artifact import IncompleteError, PolicySpec, ServingInfo, check_files
from saver.artifact.files import read_manifest, write_json

GRAPH_MANIFEST = "graph.json"
BUNDLE_MANIFEST = "bundle.json"
COMPILED_FILE = "model.tflite"
FINGERPRINT_FILE = "fingerprint.pb"  # TensorFlow's, of graph and weights together
# Graph: 2, constants were compared one by one, rows with each other. Bundle: 4, what draws may be compiled without
# `sample`. What has another format is made anew.
GRAPH_FORMAT, BUNDLE_FORMAT = 2, 4
AUTO, LITERT, TENSORFLOW = "auto", "litert", "tensorflow"
# The two kinds of folders, by the names of those in which they lie.
GRAPHS, VERSIONS = "graphs", "versions"


@dataclass(frozen=True)
class RowSharing:
    """Rules of which rows may share a call of a version.

    `dependent`: why the rows of a call depend on each other, so that no two requests may share one; "" where they do
    not. `whole_batches`: such a policy takes neither more nor fewer rows than its fixed batch size. `one_row`: it takes
    one row a call only.
    """

    dependent: str = ""
    whole_batches: bool = False
    one_row: bool = False


@dataclass(frozen=True)
class Graph:
    """An export's graph, copied: its digest, what it takes and gives, and whether it came without `serving/`.

    `train_step` is that of the export's own weights, -1 if unknown. `python_code` is what of its functions is
    Python, and cannot be run here.
    """

    folder: Path
    digest: str
    spec: PolicySpec
    serving: ServingInfo
    plain: bool
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    train_step: int = -1
    python_code: tuple[str, ...] = ()

    def alike(self, other: Graph) -> bool:
        """Returns whether the two differ for callers in nothing but the answers."""
        return (self.spec, self.serving) == (other.spec, other.serving)

    def differs_in_weights_alone(self, other: Graph) -> bool:
        """Returns whether the two have the same functions, to the byte; they may be the same graph."""
        return self.alike(other) and self.plain == other.plain and self._of_functions() == other._of_functions()

    def _of_functions(self) -> dict[str, str]:
        """The files that are no weights, nor named for them."""
        return {
            name: digest
            for name, digest in self.files.items()
            if PurePosixPath(name).name != FINGERPRINT_FILE and "variables" not in PurePosixPath(name).parts
        }

    def write(self) -> None:
        """Writes graph.json into the folder."""
        data = {
            "format": GRAPH_FORMAT,
            "digest": self.digest,
            "plain": self.plain,
            "train_step": self.train_step,
            "python_code": list(self.python_code),
            "policy": self.spec.to_json(),
            "serving": self.serving.to_json(),
            "files": dict(self.files),
        }
        write_json(self.folder / GRAPH_MANIFEST, data)

    @classmethod
    def read(cls, folder: Path, found: Mapping[str, str] | None = None) -> Graph | None:
        """The graph in `folder`, its files compared with its manifest; None where there is none.

        `found`: the sha256 (hex) of each file, where they are known.
        """
        data = _read(folder, GRAPH_MANIFEST, GRAPH_FORMAT, found)
        if data is None:
            return None
        try:
            return cls(
                folder,
                data["digest"],
                PolicySpec.from_json(data["policy"]),
                ServingInfo.from_json(data["serving"]),
                data["plain"],
                data["files"],
                int(data["train_step"]),
                tuple(data["python_code"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Bundle:
    """A version that was proved fit to serve.

    `graph` is the digest of the graph that it belongs to, `digest` its own; `engine` is what runs it,
    `engine_reason` why, and `asked_for` the engine that the server was set to use, or "auto". `metadata` is JSON:
    {name: value}. `probed` says what it answered to probe inputs, `sharing` which rows may share a call.
    """

    folder: Path
    graph: str
    digest: str
    train_step: int
    engine: str
    engine_reason: str
    metadata: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    asked_for: str = AUTO
    probed: dict[str, Any] = field(default_factory=dict)
    sharing: RowSharing = RowSharing()

    @property
    def dependent_rows(self) -> str:
        """The reason why the rows of a call depend on each other; "" where they do not."""
        return self.sharing.dependent

    def write(self) -> None:
        """Writes bundle.json into the folder."""
        fields = {key: value for key, value in vars(self).items() if key != "folder"}
        data = {"format": BUNDLE_FORMAT, **fields, "sharing": vars(self.sharing)}
        write_json(self.folder / BUNDLE_MANIFEST, data)

    @classmethod
    def read(cls, folder: Path, found: Mapping[str, str] | None = None) -> Bundle | None:
        """The bundle in `folder`: see `Graph.read`."""
        data = _read(folder, BUNDLE_MANIFEST, BUNDLE_FORMAT, found)
        if data is None:
            return None
        try:
            fields = {key: value for key, value in data.items() if key not in ("format", "sharing")}
            return cls(folder, **fields, sharing=RowSharing(**data["sharing"]))
        except (KeyError, TypeError):
            return None

    @staticmethod
    def is_of_this_format(folder: Path) -> bool:
        """Returns whether the manifest in `folder` says that it is of the format that is read here."""
        with contextlib.suppress(IncompleteError):
            return read_manifest(folder / BUNDLE_MANIFEST, BUNDLE_FORMAT) is not None
        return False


@dataclass(frozen=True)
class Prepared:
    """A version that is ready; `loaded_at` is the Unix time at which its values were read: then it was verified."""

    bundle: Bundle
    loaded_at: float = field(default_factory=time.time)


def _read(folder: Path, name: str, version: int, found: Mapping[str, str] | None) -> dict[str, Any] | None:
    try:
        data = read_manifest(folder / name, version)
        if data is None:
            return None
        if found is None:
            check_files(folder, data["files"])
        elif data["files"] != {path: sha256 for path, sha256 in found.items() if path != name}:
            return None
        return data
    except (IncompleteError, AttributeError, KeyError):
        return None  # damaged, or of another format: it is made anew
