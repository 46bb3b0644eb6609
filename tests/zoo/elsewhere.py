"""Answers of served policies in a process of their own: a program, see test_engines.py.

    python -m tests.zoo.elsewhere JOBS

JOBS is a folder with `NAME.job`: pickled (graph's folder, bundle's folder, inputs of `action`). `NAME.answer` becomes
the pickled outputs.
"""

import pickle
import sys
from pathlib import Path

from app.artifacts.bundle import Bundle, Graph
from app.versions.loader import BundleLoader


def main(folder: Path) -> None:
    for job in folder.glob("*.job"):
        graph_folder, bundle_folder, inputs = pickle.loads(job.read_bytes())
        graph, bundle = Graph.read(graph_folder), Bundle.read(bundle_folder)
        assert graph is not None
        assert bundle is not None
        outputs = BundleLoader().load(graph, bundle).run("action", inputs)
        job.with_suffix(".answer").write_bytes(pickle.dumps(outputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
