"""What servers run from, made once for each export: a server that finds it in its state folder compiles nothing.

A server that has to compile first takes twice as much of a core until it answers, and three times as long.
"""

import atexit
import functools
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from app.artifacts.bundle import GRAPHS, VERSIONS
from app.artifacts.export import identify_export


def prepare(state: Path, policies: Mapping[str, Path]) -> None:
    """Puts into a state folder what the export of each policy runs from, where it has nothing of that policy yet.

    Left out are exports of TF-Agents' own saver: where TF-Agents is imported, as here, more is read of them.
    """
    for name, folder in policies.items():
        export = identify_export(folder)
        if export.manifest is not None and not (state / name).exists():
            shutil.copytree(_made(export.digest, folder), state / name)


@functools.cache
def _store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="test-prepared-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_known: dict[str, Path] = {}
_one_at_a_time = threading.Lock()  # members of a fleet are started together


def _made(digest: str, folder: Path) -> Path:
    """As the builder's process makes it."""
    with _one_at_a_time:
        if digest not in _known:
            from app.builder.builder import Builder  # here, so that no test needs TensorFlow that does not ask for this
            from app.builder.open_export import open_export

            place = _store() / digest
            graph = open_export(folder, place / GRAPHS)
            Builder(graph).prepare(None, digest, place / VERSIONS / digest)
            _known[digest] = place
        return _known[digest]
