"""Calls exported functions where nothing but TensorFlow is installed: a program of its own, see test_serving.py.

    python -I -S alone.py PACKAGES JOBS

PACKAGES is the only folder that packages come from. JOBS is a folder with `jobs.json`: for each name a SavedModel's
folder and its functions; `NAME.FUNCTION.npz` are the inputs, and `NAME.FUNCTION.out.npz` becomes the outputs.
"""

import json
import sys
from pathlib import Path

sys.path.append(sys.argv[1])

import numpy as np
import tensorflow as tf


def main(folder: Path) -> None:
    for forbidden in ("tf_agents", "tensorflow_probability", "tf_keras", "saver", "app"):
        try:
            __import__(forbidden)
        except ImportError:
            continue
        raise AssertionError(f"{forbidden} can be imported here")
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        model = tf.saved_model.load(job["model"])
        if job["checkpoint"]:
            tf.train.Checkpoint(policy=model).read(job["checkpoint"]).assert_consumed()
        for function in job["functions"]:
            signature = model.signatures[function]
            dtypes = {spec.name: spec.dtype for spec in signature.structured_input_signature[1].values()}
            with np.load(folder / f"{name}.{function}.npz", allow_pickle=True) as inputs:
                outputs = signature(**{key: tf.constant(inputs[key.replace("/", "|")], dtypes[key]) for key in dtypes})
            arrays = {key.replace("/", "|"): value.numpy() for key, value in outputs.items()}
            np.savez(folder / f"{name}.{function}.out.npz", **arrays)


main(Path(sys.argv[2]))
