"""A policy's functions and weights → one .tflite file; or the reason why it has to stay on TensorFlow.

Conversion takes 0.2 s and more. Between two versions of one graph only constants differ, so it is done once for a
`Template`, into which the weights of each version are written.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.lite.python.lite import TFLiteSavedModelConverterV2

from app.builder.constant_folding import FoldedConstants
from app.builder.draws import CannotReplace
from app.builder.noise_inputs import with_noise_inputs
from app.builder.op_rewrites import rewrite_ops
from app.builder.patching import Template, Weights, distinguishable, like, template_of
from app.builder.unrolled_loops import CannotUnroll, has_lists, unrolled
from app.builder.unsupported import kinds, why_unsupported
from app.engine.savedmodel.engine import FlatFunction, TensorFlowEngine
from saver.artifact import PolicySpec, ServingInfo, leaves
from saver.artifact.literal_path import literal_path
from saver.impure_ops import impurities, seed_of
from saver.stderr import hushed

INITIAL_STATE = "get_initial_state"
_NO_KERNEL = re.compile(r"'tf\.(\w+)' op is neither")
_COMPLAINT = re.compile(r"'tf\.(\w+)' op (?!is neither)(.+)")


class CannotCompile(Exception):
    """The policy stays on TensorFlow; the message says why, for a person."""


class Compiler:
    """Compiles copies of one export to LiteRT.

    `aliases`: the functions that need no place in the file, since they are `action` under another name.

    Conversion may freeze what a function draws. So an `action` that draws random numbers is left out where there is
    `sample`, which takes them as an input; else, and in a `distribution` that draws, they become inputs here.

    Args:
      engine: any copy; it is only read.
      spec: of the policy.
      serving: its functions beside `action` and `get_initial_state`.

    Raises:
      CannotCompile: a function draws what cannot be an input or changes variables, may refuse inputs by an assertion
        (conversion would drop it), or has an operation that LiteRT lacks.
    """

    def __init__(self, engine: TensorFlowEngine, spec: PolicySpec, serving: ServingInfo) -> None:
        if any(None in leaf.shape for _, leaf in leaves(spec.inputs)):
            raise CannotCompile(
                "an input has no fixed size, and LiteRT cannot refuse sizes that the policy does not take"
            )
        self._spec = spec
        self._names, self._drawing = _to_compile(engine, spec, serving)
        self.aliases = frozenset({"greedy", "sample"} & serving.signatures.keys()) - frozenset(self._names)
        self._of_noise: tuple[Any, TensorFlowEngine] | None = None
        engine = self.of_noise(engine)
        for name in self._names:
            if why_not := why_unsupported(engine.functions[name].concrete):
                raise CannotCompile(f"{name} {why_not}")
        variables = _variables(engine, self._names)
        wrapped = {name: _wrapped(name, _without_lists(engine.functions[name])) for name in self._names}
        self._constants = FoldedConstants(wrapped, variables, fed_back=bool(leaves(spec.state)))
        self._template = self._template_of(self._constants.values(_weights(variables)))

    @property
    def draws(self) -> bool:
        """Whether `action` draws, so that it is not in the file."""
        return "action" not in self._names

    @property
    def patches(self) -> bool:
        """Whether weights can be written into a template; otherwise each version is converted anew."""
        return self._template is not None

    def of_noise(self, engine: TensorFlowEngine) -> TensorFlowEngine:
        """The copy with its functions as they are compiled: those that draw take their noise as inputs.

        Raises:
          CannotCompile: a function draws what cannot be an input.
        """
        if not self._drawing:
            return engine
        if self._of_noise is None or self._of_noise[0] is not engine:
            try:
                self._of_noise = engine, with_noise_inputs(engine, self._drawing, self._spec)
            except CannotReplace as error:
                raise CannotCompile(str(error)) from error
        self._of_noise[1].sharing = engine.sharing
        return self._of_noise[1]

    def compile(self, engine: TensorFlowEngine, destination: Path) -> bool:
        """Writes the model with the weights that the engine's copy holds now.

        Args:
          engine: a copy of the export that the compiler was made for.
          destination: the file, which appears whole or not at all.

        Returns:
          Whether the weights were written into the template; else they were converted.

        Raises:
          CannotCompile: conversion fails with these weights.
        """
        values = self._constants.values(_weights(_variables(self.of_noise(engine), self._names)))
        patched = self._template is not None and self._template.fits(values)
        pieces: Iterable[Any] = [] if patched else [_converted(self._constants, values)]
        if self._template is not None and patched:
            pieces = self._template.filled(values)
        partial = destination.with_name(destination.name + ".partial")
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(partial, destination)
        return patched

    def _template_of(self, real: Weights) -> Template | None:
        """None where some of the file does not follow from the constants alone.

        Raises:
          CannotCompile: the functions cannot be converted at all.
        """
        if not self._constants.explained:
            _converted(self._constants, real)  # raises, before anything relies on it
            return None
        try:
            one, other = ((_converted(self._constants, v), v) for v in (distinguishable(real), like(real)))
            return template_of(one, other)
        except CannotCompile:
            _converted(self._constants, real)  # raises, unless those values are to blame
            return None


def _to_compile(engine: TensorFlowEngine, spec: PolicySpec, serving: ServingInfo) -> tuple[list[str], list[str]]:
    """The functions that need a signature, and those of them that draw.

    Functions that are the action itself under another name need none, and neither does an action by `sample`.

    Raises:
      CannotCompile: `action` changes variables, or draws from a seed of its own.
    """
    state = [INITIAL_STATE] if spec.signatures[INITIAL_STATE].outputs else []
    action = _inner(engine.functions["action"])
    others = [name for name in ("greedy", "sample") if name in serving.signatures]
    others = [name for name in others if action is None or _inner(engine.functions[name]) != action]
    drawn = impurities(engine.functions["action"].concrete)
    if drawn and seed_of(engine.functions["action"].concrete) == "own":
        raise CannotCompile("action draws from a seed in the export, and so the same again after each start")
    left_out = drawn and "sample" in others
    distribution = ["distribution"] if "distribution" in serving.signatures else []
    drawing = [n for n in ("action", *distribution) if impurities(engine.functions[n].concrete)]
    names = [*([] if left_out else ["action"]), *state, *distribution, *others]
    return names, [name for name in drawing if name in names]


def _inner(function: FlatFunction) -> str | None:
    """The name of the function that a signature of a SavedModel does nothing but call; None if it does more."""
    operations = function.concrete.graph.get_operations()
    called = [o.get_attr("f").name for o in operations if o.type in ("PartitionedCall", "StatefulPartitionedCall")]
    others = {o.type for o in operations} - {"PartitionedCall", "StatefulPartitionedCall", "Placeholder", "Identity"}
    return called[0] if len(called) == 1 and not others - {"NoOp"} else None


def _variables(engine: TensorFlowEngine, names: Sequence[str]) -> list[Any]:
    """The variables that the functions of a copy read, in the same order for each copy.

    Raises:
      CannotCompile: they use more than variables.
    """
    variables: dict[int, Any] = {}
    for name in names:
        concrete = engine.functions[name].concrete
        by_handle = {id(variable.handle): variable for variable in concrete.variables}
        # In the order of the captures: that of `variables` differs from copy to copy.
        for handle in concrete.captured_inputs:
            if id(handle) in by_handle:
                variables.setdefault(id(handle), by_handle[id(handle)])
            elif handle.dtype == tf.resource:
                raise CannotCompile("the policy uses a look-up table, or another resource that is no variable")
    return list(variables.values())


def _weights(variables: Sequence[Any]) -> Weights:
    # Beneath `numpy()`, which takes three times as long.
    reads = (tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype) for variable in variables)
    return [value.numpy() for value in reads]


def _without_lists(function: FlatFunction) -> FlatFunction:
    """The function without loops that gather tensors in lists, where that can be: LiteRT seldom has such lists."""
    if not has_lists(function):
        return function
    try:
        return unrolled(function)
    except CannotUnroll:
        return function  # conversion says what is the matter


def _wrapped(name: str, function: FlatFunction) -> Callable[..., dict[str, tf.Tensor]]:
    """A function of a copy as LiteRTEngine wants it."""
    return _one_row(function) if name == INITIAL_STATE and function.dtypes else _traced(function)


def _traced(function: FlatFunction) -> Callable[..., dict[str, tf.Tensor]]:
    """A tf.function whose inputs have their flattened names."""
    wanted = tf.nest.flatten(function.concrete.structured_input_signature)
    specs = [tf.TensorSpec(s.shape, s.dtype, name) for s, name in zip(wanted, function.dtypes, strict=True)]

    @tf.function(autograph=False, input_signature=specs)
    def traced(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = function.on_tensors(dict(zip(function.dtypes, tensors, strict=True)))
        return {name: tf.identity(tensor) for name, tensor in outputs.items()}

    return traced


def _one_row(function: FlatFunction) -> Callable[..., dict[str, tf.Tensor]]:
    """`get_initial_state` of one row, without inputs. That other rows repeat it is for the comparison to see."""

    @tf.function(autograph=False, input_signature=[])
    def one_row() -> dict[str, tf.Tensor]:
        outputs = function.on_tensors({name: tf.constant(1, dtype) for name, dtype in function.dtypes.items()})
        return {name: tf.identity(tensor) for name, tensor in outputs.items()}

    return one_row


def _save(constants: FoldedConstants, folder: Path) -> None:
    """Writes the functions as a SavedModel: their graph once, and with each call the values of their variables."""
    file = folder / "saved_model.pb"
    if constants.saved_model:
        file.write_bytes(constants.saved_model)
        tf.train.Checkpoint(weights=constants.variables).write(str(folder / "variables" / "variables"))
        return
    module = tf.Module()
    module.weights = constants.variables
    # Gradients are not converted, and some cannot be saved.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), constants.functions, options)
    rewrite_ops(folder, constants.fed_back)
    constants.saved_model = file.read_bytes()


def _converted(constants: FoldedConstants, values: Weights) -> bytes:
    """The .tflite file of the functions with these values of their constants; raises as `_convert` does."""
    constants.assign(values)
    return _convert(constants)


def _convert(constants: FoldedConstants) -> bytes:
    """The .tflite file of the functions with the values of their variables now.

    Raises:
      CannotCompile: there is something that LiteRT cannot do without TensorFlow's own operations.
    """
    with tempfile.TemporaryDirectory() as own, literal_path(Path(own)) as folder, hushed():
        try:
            _save(constants, folder)
            # Its public way loads the SavedModel three times before it converts what lies in the folder.
            converter = TFLiteSavedModelConverterV2(str(folder), {tf.saved_model.SERVING}, list(constants.functions))
            data: bytes = converter._convert_from_saved_model(tf.compat.v1.GraphDef())
            problem = None
        except Exception as error:  # the converter has many kinds, and none for a policy that it cannot convert
            problem = _reason(constants, str(error))  # raised where it is not hushed: there it would print everything
    if problem is not None:
        raise CannotCompile(problem)
    return data


def _reason(constants: FoldedConstants, said: str) -> str:
    """What the converter said, in short."""
    lacking = set(_NO_KERNEL.findall(said))
    if lacking:
        users = [name for name, function in constants.functions.items() if kinds(_concrete(function)) & lacking]
        return f"{', '.join(users) or 'the policy'} needs {', '.join(sorted(lacking))}, which LiteRT lacks"
    complaints = [" ".join(match.groups()) for match in _COMPLAINT.finditer(said)] or said.strip().splitlines()
    return f"conversion fails: {complaints[0][:200] if complaints else 'no reason given'}"


def _concrete(function: Any) -> Any:
    """A tf.function's only concrete function; those of a loaded model are concrete."""
    return function.get_concrete_function() if hasattr(function, "get_concrete_function") else function
