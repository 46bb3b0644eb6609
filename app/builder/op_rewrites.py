"""A SavedModel → the same one, without operations that LiteRT lacks, or works out otherwise than TensorFlow.

Each becomes a call of a function that is as exact as TensorFlow's own: see `app.builder.op_forms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from app.builder.op_forms import BIASES_LAST, FORMS, Around, Form, dtypes_of


def rewrite_ops(folder: Path, fed_back: bool = False) -> None:
    """Writes the SavedModel in `folder` anew, where its functions have such operations.

    Args:
      folder: of the SavedModel.
      fed_back: whether its outputs come back as its inputs, so that what rounding does grows.
    """
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    forms = FORMS + BIASES_LAST if fed_back else FORMS
    changed = [_replace(meta.graph_def.library, forms) for meta in model.meta_graphs]
    if any(changed):
        file.write_bytes(model.SerializeToString())


def _replace(library: Any, forms: Sequence[Form]) -> bool:
    """Whether there was anything to replace in a library of functions."""
    definitions: dict[str, list[Any]] = {}
    names: dict[Any, str] = {}
    for function in library.function:
        around = _around(function)
        chosen = [(node, form) for node in function.node_def if (form := _form_of(node, around, forms)) is not None]
        outputs: dict[str, dict[str, int]] = {}
        for node, form in chosen:
            dtypes, attributes = dtypes_of(node, "input_arg"), form.attributes_of(node)
            key = (forms.index(form), dtypes, tuple(attributes.items()))
            name = names.setdefault(key, f"exact_{len(names)}")
            if name not in definitions:
                definitions[name] = _definitions(name, form, dtypes, attributes)
            outputs[node.name] = {a.name: i for i, a in enumerate(op_def_registry.get(node.op).output_arg)}
            node.CopyFrom(_call(node, name, dtypes, dtypes_of(node, "output_arg")))
        _rename_outputs(function, outputs)
    library.function.extend(one for several in definitions.values() for one in several)
    return bool(definitions)


def _around(function: Any) -> Around:
    constants = {n.name: tf.make_ndarray(n.attr["value"].tensor) for n in function.node_def if n.op == "Const"}
    return Around({node.name: node for node in function.node_def}, constants)


def _form_of(node: Any, around: Around, forms: Sequence[Form]) -> Form | None:
    return next((form for form in forms if node.op == form.kind and form.fits(node, around)), None)


def _definitions(name: str, form: Form, dtypes: tuple[tf.DType, ...], attributes: dict[str, Any]) -> list[Any]:
    """The function of a form under that name, and those that its loops run."""
    specs = [tf.TensorSpec(shape, dtype) for shape, dtype in zip(form.shapes, dtypes, strict=True)]

    @tf.function(autograph=False, input_signature=specs)
    def traced(*tensors: tf.Tensor) -> Any:
        return form.compute(*tensors, **attributes)

    concrete = traced.get_concrete_function()
    definition = concrete.function_def
    definition.signature.name = name
    return [definition, *concrete.graph.as_graph_def().library.function]


def _call(node: Any, function: str, inputs: tuple[tf.DType, ...], outputs: tuple[tf.DType, ...]) -> Any:
    """A node of the same name and inputs that calls a function."""
    call = node_def_pb2.NodeDef(name=node.name, op="PartitionedCall", input=node.input)
    call.attr["f"].func.name = function
    call.attr["Tin"].list.type.extend(dtype.as_datatype_enum for dtype in inputs)
    call.attr["Tout"].list.type.extend(dtype.as_datatype_enum for dtype in outputs)
    return call


def _rename_outputs(function: Any, indices: dict[str, dict[str, int]]) -> None:
    """Each kind of operation has names of its own for its outputs; those of a call are numbered.

    Args:
      function: the definition of a function.
      indices: by the name of the node, the number of each output by its former name.
    """

    def renamed(reference: str) -> str:
        node, *rest = reference.split(":")
        return f"{node}:output:{indices[node][rest[0]]}" if node in indices and rest else reference

    for node in function.node_def:
        node.input[:] = [renamed(reference) for reference in node.input]
    for key, reference in list(function.ret.items()):
        function.ret[key] = renamed(reference)
