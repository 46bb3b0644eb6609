"""The constants that an export has embedded in its graph, such as an ε: what of a policy no checkpoint changes.

Two exports are compared by them: where they differ, a checkpoint of the one is not served with the graph of the other.
(Values that follow from variables, and so change with each checkpoint, are the matter of `constant_folding`.)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from app.errors import SwapRefused
from saver.artifact import GRAPH_FILE


def embedded_constants(folder: Path) -> Counter[bytes]:
    """Counts each constant (dtype, shape and values) in the graph of the SavedModel in `folder` and in its functions.

    By themselves and not by the names of their nodes, which differ from process to process. Texts are left out: they
    are names of files.

    Raises:
      SwapRefused: the graph cannot be read.
    """
    model = SavedModel()
    try:
        model.ParseFromString((folder / GRAPH_FILE).read_bytes())
    except Exception as error:  # protobuf has its own kinds
        raise SwapRefused(f"{GRAPH_FILE} cannot be read: {str(error)[:200]}") from None
    found: Counter[bytes] = Counter()
    for graph in (meta.graph_def for meta in model.meta_graphs):
        for node in [*graph.node, *(node for called in graph.library.function for node in called.node_def)]:
            if node.op == "Const" and node.attr["value"].tensor.dtype != tf.string.as_datatype_enum:
                found[node.attr["value"].tensor.SerializeToString(deterministic=True)] += 1
    return found
