"""The disk formats: what a policy's folder and a checkpoint's folder hold, and when they are complete.

No TensorFlow here: the server reads these formats in processes that never import it.
"""

from saver.artifact.checkpoint import (
    CHECKPOINT_FILE,
    CHECKPOINTS_FOLDER,
    CheckpointManifest,
    natural_order,
    prune_checkpoints,
    read_checkpoint_manifest,
    write_checkpoint_manifest,
)
from saver.artifact.files import IncompleteError, check_files, copy_files, digest_of, hash_files, is_name
from saver.artifact.nests import Leaf, Nest, leaves, nest_from_json, nest_to_json, pack
from saver.artifact.policy import (
    FUNCTIONS,
    LOG_PROB,
    NOISE_NORMAL,
    NOISE_UNIFORM,
    SERVING_FOLDER,
    DistributionInfo,
    Noise,
    PolicySpec,
    ServingInfo,
    Signature,
    TensorInfo,
)
from saver.artifact.policy_manifest import (
    GRAPH_FILE,
    POLICY_FILE,
    PolicyManifest,
    check_is_export,
    read_policy_manifest,
    write_policy_manifest,
)

__all__ = [
    "CHECKPOINTS_FOLDER",
    "CHECKPOINT_FILE",
    "FUNCTIONS",
    "GRAPH_FILE",
    "LOG_PROB",
    "NOISE_NORMAL",
    "NOISE_UNIFORM",
    "POLICY_FILE",
    "SERVING_FOLDER",
    "CheckpointManifest",
    "DistributionInfo",
    "IncompleteError",
    "Leaf",
    "Nest",
    "Noise",
    "PolicyManifest",
    "PolicySpec",
    "ServingInfo",
    "Signature",
    "TensorInfo",
    "check_files",
    "check_is_export",
    "copy_files",
    "digest_of",
    "hash_files",
    "is_name",
    "leaves",
    "natural_order",
    "nest_from_json",
    "nest_to_json",
    "pack",
    "prune_checkpoints",
    "read_checkpoint_manifest",
    "read_policy_manifest",
    "write_checkpoint_manifest",
    "write_policy_manifest",
]
