"""The Open Inference Protocol v2, as HTTP and gRPC share it: models and their tensors, parameters, raw tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from app.batching.rule import INITIAL_STATE
from app.dialects.calls import FUNCTIONS
from app.errors import DoesNotFit, Problem, UnknownPolicy, Unsupported
from app.inference.policy import Policy
from app.inputs.names import names_of, top_level
from app.inputs.options import OPTION_FIELDS
from app.wire.tensors import Array, show
from saver.artifact import LOG_PROB, Leaf, TensorInfo, leaves

PLATFORM = "tf_agents_policy"
EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "model_repository", "parameters", "sequence", "sequence(string_id)",
    "statistics",
)  # fmt: skip
# NumPy's names of dtypes → the protocol's; BF16 is Triton's.
_NAMED = {
    "bool": "BOOL",
    "string": "BYTES",
    "bfloat16": "BF16",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_SIZED = {f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
DATATYPES = {**_NAMED, **_SIZED}
BATCH_SIZE = Leaf("batch_size", "int64", ())
# Protocol words, which are no options.
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_LONGEST_TIMEOUT_US = 600_000_000
# A string of a BYTES tensor has its length before it.
_LENGTH_BYTES = 4


class SequenceStep(NamedTuple):
    """The place of a request in a sequence, which is a session."""

    id: str
    start: bool
    end: bool


class Tensor(NamedTuple):
    """A tensor of a model, with its batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """A function of a policy: `POLICY` is its action. `leaves`: of the inputs, by every name that one may have."""

    policy: Policy
    function: str
    name: str
    leaves: Mapping[str, Leaf]

    @functools.cached_property
    def inputs(self) -> Sequence[Tensor]:
        """The tensors that requests have."""
        return _inputs(self.policy, self.function)

    @functools.cached_property
    def outputs(self) -> Sequence[Tensor]:
        """The tensors of an answer to a request without options."""
        return _outputs(self.policy, self.function)

    @property
    def has_sequences(self) -> bool:
        """Whether its requests may be steps of a session that keeps a policy state."""
        return self.function == FUNCTIONS[0] and any(leaves(self.policy.spec.state))

    @classmethod
    def of(cls, policy: Policy, function: str) -> Model:
        """Returns the model of a function; raises Unsupported where the policy has none."""
        if function == "distribution" and function not in policy.serving.signatures:
            reason = policy.serving.unavailable.get(function, "not exported")
            raise Unsupported(f"policy {policy.name} has no distribution: {reason}")
        name = policy.name if function == FUNCTIONS[0] else f"{policy.name}:{function}"
        return cls(policy, function, name, _leaves(policy, function))


def function_in(model: str) -> tuple[str, str]:
    """Returns the policy and the function that the name of a model stands for; raises UnknownPolicy."""
    policy, _, function = model.partition(":")
    if function and function not in FUNCTIONS[1:]:
        others = ", ".join(f"{policy}:{name}" for name in FUNCTIONS[1:])
        raise UnknownPolicy(f"no model {model[:200]!r}; of a policy there are: {policy}, {others}")
    return policy, function or FUNCTIONS[0]


def options_in(parameters: Any) -> tuple[dict[str, Any], SequenceStep | None]:
    """Returns the options and the sequence in the parameters of a request.

    Raises:
      DoesNotFit: a parameter that is none, or of the wrong kind.
    """
    if not parameters:
        return {}, None
    if not isinstance(parameters, dict):
        raise _unfit("parameters", show(parameters), "an object")
    options: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "timeout":
            options |= _timeout(value)
        elif name in OPTION_FIELDS:
            options[name] = value
        elif name not in _IGNORED and name not in _SEQUENCE and not name.startswith(_RESERVED):
            expected = ", ".join([*OPTION_FIELDS, "timeout", *_SEQUENCE, *_IGNORED])
            raise _unfit(f"parameters.{name}"[:200], "is no parameter", f"one of {expected}")
    return options, _sequence(parameters)


# Triton's tools say by these what they can do with an answer.
_RESERVED = "triton_"
_IGNORED = ("priority", "binary_data_output", "content_type", "headers")


def _timeout(value: Any) -> dict[str, int]:
    """Microseconds → the option; 0 leaves it to the server, as it does in Triton."""
    if type(value) is not int or not 0 <= value <= _LONGEST_TIMEOUT_US:
        raise _unfit("parameters.timeout", show(value), f"microseconds from 1 to {_LONGEST_TIMEOUT_US}, or 0 for none")
    return {"timeout_ms": -(-value // 1000)} if value else {}


def _sequence(parameters: Mapping[str, Any]) -> SequenceStep | None:
    id_ = parameters.get("sequence_id", 0)
    flags = []
    for name in _SEQUENCE[1:]:
        flag = parameters.get(name, False)
        if type(flag) is not bool:
            raise _unfit(f"parameters.{name}", show(flag), "true or false")
        flags.append(flag)
    if type(id_) is not int and not isinstance(id_, str):
        raise _unfit("parameters.sequence_id", show(id_), "an integer or a string")
    if not id_:  # the protocol's word for a request of no sequence
        if any(flags):
            raise _unfit("parameters.sequence_id", show(id_), "the id of the sequence that starts or ends")
        return None
    return SequenceStep(str(id_), *flags)


def leaf_of(model: Model, name: Any, taken: Mapping[str, Any]) -> Leaf:
    """Returns the leaf of the input of that name; raises DoesNotFit where there is none, or it was given before."""
    leaf = model.leaves.get(name) if isinstance(name, str) else None
    if leaf is None:
        came = name[:200] if isinstance(name, str) else show(name)
        raise _unfit(came, f"is no input of model {model.name}", f"one of {', '.join(t.name for t in model.inputs)}")
    if leaf.name in taken:
        raise _unfit(leaf.name, "is given twice", "one of the two")
    return leaf


def check_tensor(leaf: Leaf, datatype: Any, shape: Any) -> int:
    """Checks what a request says of a tensor; returns how many items it has.

    Raises:
      DoesNotFit: another datatype or shape than the leaf has.
    """
    expected = DATATYPES[leaf.dtype]
    if datatype != expected:
        came = f"datatype {datatype[:20]}" if isinstance(datatype, str) else show(datatype)
        raise _unfit(leaf.name, came, f"datatype {expected}")
    whole = ["n", *("?" if size is None else size for size in leaf.shape)]
    fits = (
        isinstance(shape, list)
        and len(shape) == len(whole)
        and all(type(size) is int and 0 <= size < 2**31 for size in shape)
        and all(size in (None, came) for size, came in zip(leaf.shape, shape[1:], strict=True))
    )
    if not fits:
        came = str(shape)[:100] if isinstance(shape, list) else show(shape)
        raise _unfit(leaf.name, f"shape {came}", f"shape [{', '.join(map(str, whole))}]")
    return math.prod(shape)


def array_in(leaf: Leaf, shape: Sequence[int], data: bytes | memoryview) -> Any:
    """Returns what raw bytes (little-endian, row-major) hold: an array over them, or nested lists of strings.

    Raises:
      DoesNotFit: too few bytes or too many, or not what the datatype has.
    """
    if leaf.dtype == "string":
        return _strings(leaf, shape, bytes(data))
    size = math.prod(shape) * leaf.storage.itemsize
    if len(data) != size:
        raise _unfit(leaf.name, f"{len(data)} bytes", f"{size} bytes: {DATATYPES[leaf.dtype]} of shape {list(shape)}")
    array = np.frombuffer(data, leaf.storage.newbyteorder("<") if leaf.storage.kind in "iuf" else leaf.storage)
    if leaf.dtype == "bool":
        raw = array.view(np.uint8)
        if raw.size and raw.max() > 1:
            raise _unfit(leaf.name, f"the byte {raw.max()}", "0 or 1, for false or true")
    return array.reshape(shape)


def raw_bytes(array: Array) -> bytes:
    """Returns the bytes of an output: little-endian, row-major, strings each after its length."""
    if array.dtype.kind not in "OSU":
        return array.tobytes()
    texts = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)


def datatype_of(array: Array) -> str:
    """Returns the datatype of an output."""
    return DATATYPES.get(array.dtype.name, "BYTES")


def field_of(model: Model, leaf: Leaf, value: Any) -> Any:
    """Returns what the own route takes in the place of a tensor: an integer for a batch size."""
    if model.function != INITIAL_STATE:
        return value
    numbers = np.asarray(value).reshape(-1)
    if numbers.size != 1 or numbers.dtype.kind not in "iu":
        raise _unfit(leaf.name, show(value), "one integer")
    return int(numbers[0])


def fields_in(model: Model, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a request; states come as a batch, of one where the request does not say."""
    return dict(fields) if model.function != INITIAL_STATE else {BATCH_SIZE.name: 1, **fields}


def _strings(leaf: Leaf, shape: Sequence[int], data: bytes) -> Any:
    found: list[bytes] = []
    at, count = 0, math.prod(shape)
    while at < len(data) and len(found) <= count:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        found.append(data[start:at])
    if at != len(data) or len(found) != count:
        raise _unfit(leaf.name, f"{len(data)} bytes", f"{count} strings, each after its length as a uint32")
    whole = np.empty(count, object)
    whole[:] = found
    return whole.reshape(shape).tolist()


def _leaves(policy: Policy, function: str) -> dict[str, Leaf]:
    if function == INITIAL_STATE:
        return {BATCH_SIZE.name: BATCH_SIZE}
    found = names_of(top_level(policy.spec))
    own = {leaf.name: leaf for _, leaf in leaves(policy.spec.inputs)}
    return {name: nest for name, nest in found.items() if isinstance(nest, Leaf)} | own


def _inputs(policy: Policy, function: str) -> tuple[Tensor, ...]:
    if function == INITIAL_STATE:
        return (Tensor(BATCH_SIZE.name, DATATYPES[BATCH_SIZE.dtype], (1,), optional=True),)
    required = policy.reader.required
    return tuple(
        Tensor(leaf.name, DATATYPES[leaf.dtype], _with_rows(leaf.shape), optional=leaf.name not in required)
        for _, leaf in leaves(policy.spec.inputs)
    )


def _outputs(policy: Policy, function: str) -> tuple[Tensor, ...]:
    if function == INITIAL_STATE:
        states = (leaf for _, leaf in leaves(policy.spec.initial_state))
        return tuple(Tensor(leaf.name, DATATYPES[leaf.dtype], _with_rows(leaf.shape)) for leaf in states)
    signature = policy.spec.signatures["action"] if function == "action" else policy.serving.signatures[function]
    names = policy.templates[function, False].names
    return tuple(_output(name, signature.outputs[name]) for name in names if name in signature.outputs)


def _output(name: str, info: TensorInfo) -> Tensor:
    return Tensor(name, DATATYPES[info.dtype], tuple(-1 if size is None else size for size in info.shape))


def _with_rows(shape: Sequence[int | None]) -> tuple[int, ...]:
    return (-1, *(-1 if size is None else size for size in shape))


def wants_log_prob(names: Sequence[str] | None) -> dict[str, bool]:
    """Returns the option that the names of wanted outputs ask for."""
    return {LOG_PROB: True} if names and LOG_PROB in names else {}


def check_outputs(names: Sequence[str] | None, there: Sequence[str]) -> Sequence[str]:
    """Returns the names of the outputs of an answer, those that are `there` if none were named; raises DoesNotFit."""
    if names is None:
        return there
    for name in names:
        if name not in there:
            raise _unfit(f"outputs.{name}"[:200], "is no output of this request", f"one of {', '.join(there)}")
    return names


def _unfit(where: str, problem: str, expected: str) -> DoesNotFit:
    return DoesNotFit([Problem(where, problem, expected)])
