"""Names of dependencies that they promise nobody, and that this code uses: each is there, and held by a pin.

Where an update of a dependency fails here, look at what uses the name before moving the pin in pyproject.toml.
"""

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.server import ROOT

# By the package that has them. A name is a module's, or one of a class of it.
NAMES = {
    "uvicorn": [
        "uvicorn.Config.load",
        "uvicorn.Server.capture_signals",
        "uvicorn.Server.serve",
        "uvicorn.Server.shutdown",
        "uvicorn.Server.startup",
        "uvicorn.protocols.http.httptools_impl.HEADER_RE",
        "uvicorn.protocols.http.httptools_impl.HEADER_VALUE_RE",
        "uvicorn.protocols.http.httptools_impl.STATUS_LINE",
        "uvicorn.protocols.utils.get_local_addr",
        "uvicorn.protocols.utils.get_remote_addr",
        "uvicorn.server.ServerState",
    ],
    "prometheus-client": [
        "prometheus_client.mmap_dict.MmapedDict.close",
        "prometheus_client.mmap_dict.MmapedDict.read_all_values_from_file",
        "prometheus_client.mmap_dict.MmapedDict.read_value",
        "prometheus_client.mmap_dict.MmapedDict.write_value",
        "prometheus_client.multiprocess.MultiProcessCollector",
    ],
    "ai-edge-litert": [
        "ai_edge_litert.interpreter.Interpreter.get_signature_list",
        "ai_edge_litert.schema_py_generated.Model.GetRootAs",
        "ai_edge_litert.schema_py_generated.Model.Subgraphs",
        "ai_edge_litert.schema_py_generated.Model.SubgraphsLength",
        "ai_edge_litert.schema_py_generated.Operator.Inputs",
        "ai_edge_litert.schema_py_generated.Operator.InputsLength",
        "ai_edge_litert.schema_py_generated.SubGraph.Operators",
        "ai_edge_litert.schema_py_generated.SubGraph.OperatorsLength",
        "ai_edge_litert.schema_py_generated.SubGraph.Outputs",
        "ai_edge_litert.schema_py_generated.SubGraph.OutputsLength",
    ],
    "tensorflow": [
        "tensorflow.core.framework.attr_value_pb2.AttrValue",
        "tensorflow.core.framework.node_def_pb2.NodeDef",
        "tensorflow.core.protobuf.saved_model_pb2.SavedModel",
        "tensorflow.core.protobuf.struct_pb2.StructuredValue",
        "tensorflow.core.protobuf.tensor_bundle_pb2.BundleEntryProto.FromString",
        "tensorflow.core.protobuf.tensor_bundle_pb2.BundleHeaderProto.FromString",
        "tensorflow.core.protobuf.trackable_object_graph_pb2.TrackableObjectGraph",
        "tensorflow.lite.python.lite.TFLiteSavedModelConverterV2._convert_from_saved_model",
        "tensorflow.lite.python.schema_py_generated.ModelT.InitFromPackedBuf",
        "tensorflow.python.eager.polymorphic_function.concrete_function.ConcreteFunction._call_flat",
        "tensorflow.python.framework.convert_to_constants.convert_variables_to_constants_v2",
        "tensorflow.python.framework.function_def_to_graph.function_def_to_graph_def",
        "tensorflow.python.framework.op_def_registry.get",
        "tensorflow.python.framework.tensor.BoundedTensorSpec",
        "tensorflow.python.framework.tensor_util.constant_value",
        "tensorflow.python.framework.tensor_util.constant_value_as_shape",
        "tensorflow.python.ops.script_ops._py_funcs._funcs",
        "tensorflow.python.saved_model.nested_structure_coder.decode_proto",
    ],
    "tf-agents": [
        "tf_agents.distributions.reparameterized_sampling.sample",
        "tf_agents.policies.policy_saver.PolicySaver",
    ],
}
# Attributes with an underscore that the tests below look for on objects, and where each is tested.
ON_OBJECTS = {
    "_buckets": "test_histogram_takes_counts",
    "_sum": "test_histogram_takes_counts",
    "_interpreter": "test_litert_runs_beneath_its_signature_runner",
    "_client": "test_exporter_has_its_client_beneath_it",
    "_squashed_distribution": "test_attributes_of_tf_agents",
    "_wrapped_policy": "test_attributes_of_tf_agents",
    "_all_assets": "test_attributes_of_tf_agents",
}
# Underscores that promise no less than other names do.
PUBLIC = {"_exit", "_fields", "_replace"}
PRIVATE_MODULES = (
    "ai_edge_litert.schema_py_generated",
    "prometheus_client.mmap_dict",
    "prometheus_client.multiprocess",
    "tensorflow.core",
    "tensorflow.lite.python",
    "tensorflow.python",
    "uvicorn.protocols",
    "uvicorn.server",
)


def resolved(name: str) -> Any:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_name_is_there(name: str) -> None:
    resolved(name)


@pytest.mark.parametrize("package", ["uvicorn", "prometheus-client", "ai-edge-litert", "tensorflow"])
def test_package_is_held_to_its_minor_version(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (specifier,) = (r.specifier for r in map(Requirement, project["dependencies"]) if r.name == package)
    here = Version(version(package))
    assert here in specifier
    assert Version(f"{here.major}.{here.minor + 1}") not in specifier
    assert Version(f"{here.major}.{here.minor - 1}.99") not in specifier


def sources() -> Iterator[tuple[Path, ast.AST]]:
    for package in ("app", "saver"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if "build" not in path.parts:
                yield path, ast.parse(path.read_text())


def test_every_private_module_is_listed() -> None:
    listed = [name for names in NAMES.values() for name in names]
    used = {
        f"{node.module}.{alias.name}"
        for _, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if f"{node.module}.{alias.name}".startswith(PRIVATE_MODULES)
    }
    assert used
    assert {name for name in used if not any(f"{known}.".startswith(f"{name}.") for known in listed)} == set()


def test_every_private_attribute_is_listed() -> None:
    """What a module or class of this code calls so itself is its own business."""
    listed = (
        {part for names in NAMES.values() for name in names for part in name.split(".")} | ON_OBJECTS.keys() | PUBLIC
    )
    for path, tree in sources():
        nodes = list(ast.walk(tree))
        own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
        own |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and _is_self(n)}
        own |= {n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        own |= {t.id for n in nodes if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        used = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
            if not _is_self(node)
        }
        assert used - own - listed == set(), path


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_exporter_has_its_client_beneath_it() -> None:
    """Without it the library's own encoder is used, which is slower: no pin holds it."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    client: Any = vars(OTLPSpanExporter())["_client"]
    assert list(inspect.signature(client.export).parameters) == ["data"]


def test_attributes_on_objects_are_tested() -> None:
    assert set(ON_OBJECTS.values()) <= globals().keys()


# uvicorn


def test_server_state_is_what_the_protocol_takes_it_for() -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(lambda *_: None))
    assert isinstance(server.server_state.connections, set)
    assert isinstance(server.server_state.tasks, set)
    assert isinstance(server.server_state.default_headers, list)
    assert server.should_exit is False
    server.config.load()
    assert callable(server.config.loaded_app)


def test_tables_of_the_protocol() -> None:
    from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE

    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert HEADER_RE.search(b"x y")
    assert not HEADER_RE.search(b"x-y")
    assert HEADER_VALUE_RE.search(b"a\nb")
    assert not HEADER_VALUE_RE.search(b"a b")


# prometheus_client


def test_histogram_takes_counts() -> None:
    from prometheus_client import CollectorRegistry, Histogram

    registry = CollectorRegistry()
    histogram = Histogram("h", "", registry=registry, buckets=(1.0, 2.0))
    assert len(histogram._buckets) == 3  # and what is above
    for bucket in histogram._buckets:
        bucket.inc(2)
    histogram._sum.inc(7.5)
    assert registry.get_sample_value("h_bucket", {"le": "2.0"}) == 4
    assert registry.get_sample_value("h_sum") == 7.5


def test_files_of_counts_are_read_and_written(tmp_path: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    path = str(tmp_path / "counter_1.db")
    counts = MmapedDict(path)
    assert counts.read_value("key") == (0.0, 0.0)
    counts.write_value("key", 2.5, 8.0)
    counts.close()
    assert [entry[:3] for entry in MmapedDict.read_all_values_from_file(path)] == [("key", 2.5, 8.0)]


# ai_edge_litert


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .tflite file with one signature that doubles its input."""
    import tensorflow as tf

    class Doubling(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
        def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": 2 * x}

    module = Doubling()
    folder = tmp_path_factory.mktemp("doubling")
    tf.saved_model.save(module, str(folder), {"double": module.double})
    converted = tf.lite.TFLiteConverter.from_saved_model(str(folder), ["double"]).convert()
    (folder / "double.tflite").write_bytes(converted)
    return folder / "double.tflite"


def test_litert_runs_beneath_its_signature_runner(doubling: Path) -> None:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(doubling), num_threads=1)
    runtime = interpreter._interpreter
    signature = runtime.GetSignatureDefs()["double"]
    subgraph = runtime.GetSubgraphIndexFromSignature("double")
    (given,), (answer,) = signature["inputs"].values(), signature["outputs"].values()
    runtime.ResizeInputTensor(given, np.array([3, 2], np.int32), False, subgraph)
    runtime.AllocateTensors(subgraph)
    runtime.SetTensor(given, np.ones([3, 2], np.float32), subgraph)
    runtime.Invoke(subgraph)
    assert runtime.GetTensor(answer, subgraph).tolist() == [[2.0, 2.0]] * 3


# TensorFlow, TFP, TF-Agents


def test_function_is_called_with_tensors_in_their_order(doubling: Path) -> None:
    import tensorflow as tf

    function = tf.saved_model.load(str(doubling.parent)).signatures["double"]
    assert function._call_flat([tf.ones([1, 2])], function.captured_inputs)["y"].numpy().tolist() == [[2.0, 2.0]]


def test_type_specs_are_registered_by_module_and_name() -> None:
    import tensorflow_probability as tfp
    from tensorflow.python.framework import type_spec_registry

    class Registered(tfp.distributions.Normal):
        __module__ = "tests.of.a.module"

    assert type_spec_registry.lookup("tests.of.a.module.Registered_ACTTypeSpec").value_type.fget(None) is Registered


def test_attributes_of_tf_agents() -> None:
    import tensorflow as tf
    import tensorflow_probability as tfp
    from tf_agents.distributions.utils import SquashToSpecNormal
    from tf_agents.policies import epsilon_greedy_policy, policy_saver, random_tf_policy
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step

    action = tensor_spec.BoundedTensorSpec([2], tf.float32, -1, 1)
    squashed = SquashToSpecNormal(tfp.distributions.MultivariateNormalDiag([[0.0, 0.0]]), action)
    assert squashed._squashed_distribution.bijector.forward(tf.zeros([1, 2])).shape == [1, 2]
    assert squashed.input_distribution.event_shape == [2]

    spec = time_step.time_step_spec(tf.TensorSpec([4], tf.float32))
    choice = tensor_spec.BoundedTensorSpec([], tf.int64, 0, 2)
    policy = random_tf_policy.RandomTFPolicy(spec, choice)
    greedy = epsilon_greedy_policy.EpsilonGreedyPolicy(policy, 0.1)
    assert hasattr(greedy, "wrapped_policy") or hasattr(greedy, "_wrapped_policy")
    assert hasattr(policy_saver.PolicySaver(policy)._policy, "_all_assets")
