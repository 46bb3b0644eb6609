"""What servers run from, made once for each export: a server that finds it in its state folder compiles nothing.

A server that has to compile first takes twice as much of a core until it answers, and three times as long.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from app.artifacts.bundle import GRAPHS, VERSIONS
from app.artifacts.export import identify_export
from tests.support.shared import folder as shared_folder
from tests.support.shared import made_once


def prepare(state: Path, policies: Mapping[str, Path]) -> None:
    """Puts into a state folder what the export of each policy runs from, where it has nothing of that policy yet.

    Left out are exports of TF-Agents' own saver: where TF-Agents is imported, as here, more is read of them.
    """
    for name, folder in policies.items():
        export = identify_export(folder)
        if export.manifest is not None and not (state / name).exists():
            shutil.copytree(_made(export.digest, folder), state / name)


_one_at_a_time = Lock()  # in this process: members of a fleet are started together


def _made(digest: str, folder: Path) -> Path:
    """As the builder's process makes it."""

    def make(place: Path) -> None:
        from app.builder.builder import Builder  # here, so that no test needs TensorFlow that does not ask for this
        from app.builder.open_export import open_export

        graph = open_export(folder, place / GRAPHS)
        Builder(graph).prepare(None, digest, place / VERSIONS / digest)

    with _one_at_a_time:
        return made_once(shared_folder("prepared") / digest, make)
