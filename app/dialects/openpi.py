"""OpenPI: msgpack messages with NumPy arrays ⇄ fields of our own route, and answers.

An array is a map with bytes as keys: `__ndarray__`, `data`, `dtype` (NumPy's `dtype.str`), `shape`; a NumPy scalar
has `__npgeneric__`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from app.dialects.openpi_arrays import decoded, encode
from app.errors import DoesNotFit, Problem
from app.inference.policy import Policy
from app.inputs.arrays import ArrayReader
from app.inputs.names import OPTIONS, names_of, request_name, top_level
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.wire.tensors import Array, Arrays, show
from saver.artifact import leaves

OBSERVATION = "observation"
ENDPOINT, SESSION, SEED, PROMPT = "endpoint", "session_id", "seed", "prompt"
# What a message may have beside the observation, where that has no key of the name.
_CONTROL = (ENDPOINT, SESSION, SEED, PROMPT)
_INFER, _RESET = "infer", "reset"
_LONGEST_ID = 200


class Message(NamedTuple):
    """What a client sends. `fields`: those of our own route, its options included. `seed`: of a whole episode."""

    resets: bool
    session_id: str | None
    seed: int | None
    fields: dict[str, Any]


class MessageReader:
    """Reads the messages to one policy: it knows every name that a field may be sent under."""

    def __init__(self, policy: Policy) -> None:
        nests = top_level(policy.spec)
        nest = nests.get(OBSERVATION) if policy.spec.takes_time_step else None
        self._names = names_of(nests)
        self._own = frozenset(nest) if isinstance(nest, dict) else frozenset()
        self._most_keys = policy.reader.most_keys
        before = f"{OBSERVATION}/"
        found = [path for path, _ in leaves(nest, OBSERVATION)] if nest is not None else []
        self._paths = {path.removeprefix(before): path for path in found if path.startswith(before)}
        self.inputs = {}
        for top, child in nests.items():
            for path, leaf in leaves(child, request_name(top, nests)):
                if leaf.name in policy.reader.required:
                    shape = [-1 if size is None else size for size in leaf.shape]
                    name = path.removeprefix(before) if self._own else path
                    self.inputs[name] = {"dtype": leaf.dtype, "shape": shape}

    def read(self, body: bytes) -> Message:
        """Reads a message; one that is no map of names is the observation.

        Raises:
          NotMsgpack: the bytes are none.
          DoesNotFit: an array that is none, an unknown name, or a value that none of the protocol's may have.
        """
        value = decoded(body, self._most_keys)
        if not isinstance(value, dict):
            return Message(False, None, None, {OBSERVATION: value})
        fields, control, observation, problems = {}, {}, {}, []
        for key, item in value.items():
            if key in self._own:
                observation[key] = item
            elif key in self._paths:
                fields[self._paths[key]] = item
            elif key in self._names or key == OPTIONS:
                fields[key] = item
            elif key in _CONTROL:
                control[key] = item
            else:
                problems.append(Problem(key[:200], "is no field of this policy", self._expected()))
        if observation and OBSERVATION in fields:
            problems.append(
                Problem(OBSERVATION, f"is given twice, also as {next(iter(observation))}", "one of the two")
            )
        if problems:
            raise DoesNotFit(problems[:20])
        if observation:
            fields[OBSERVATION] = observation
        return _message(control, fields) if control else Message(False, None, None, fields)

    def _expected(self) -> str:
        known = list(dict.fromkeys((*self.inputs, *self._own)))[:64]
        return f"one of {', '.join([*known, OPTIONS, *_CONTROL])}"


def _message(control: Mapping[str, Any], fields: dict[str, Any]) -> Message:
    endpoint, session, seed = control.get(ENDPOINT, _INFER), control.get(SESSION), control.get(SEED)
    if endpoint not in (_INFER, _RESET):
        raise DoesNotFit([Problem(ENDPOINT, show(endpoint), f'"{_INFER}" or "{_RESET}"')])
    if session is not None and not (isinstance(session, str) and len(session) <= _LONGEST_ID):
        raise DoesNotFit([Problem(SESSION, show(session), f"a string of at most {_LONGEST_ID} characters")])
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**63):
        raise DoesNotFit([Problem(SEED, show(seed), "an integer from 0 to 2^63 - 1")])
    if endpoint == _RESET:
        return Message(True, session, seed, {})
    if seed is not None:
        options = fields.get(OPTIONS) or {}
        if not isinstance(options, dict) or SEED in options:
            raise DoesNotFit([Problem(SEED, f"is given twice, also in {OPTIONS}", "one of the two")])
        fields[OPTIONS] = {**options, SEED: seed}
    return Message(False, session, None, fields)


class Place(NamedTuple):
    """Where an array of a message lies. `name`: of its leaf; `shape`: [rows, …]."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    items: int


class Kind(NamedTuple):
    """A kind of messages that differ in the numbers of their arrays alone. `between`: what stands around those."""

    size: int
    between: list[tuple[int, int, bytes]]
    places: list[Place]
    rows: int
    batched: bool
    options: Options

    @classmethod
    def of(cls, body: bytes, inputs: Inputs, options: Options) -> Kind | None:
        """Returns the kind of a message, and None where some of its inputs are no arrays of the spec's own dtypes."""
        base = _address(np.frombuffer(body, np.uint8))
        places = []
        for name, array in inputs.arrays.items():
            start = _address(array) - base
            if not 0 <= start <= len(body) - array.nbytes or array.dtype.kind not in "iuf" or not array.nbytes:
                return None
            places.append(Place(name, array.dtype, array.shape, start, array.size))
        places.sort(key=lambda place: place.start)
        between, at = [], 0
        for place in places:
            between.append((at, place.start, body[at : place.start]))
            at = place.start + place.items * place.dtype.itemsize
        between.append((at, len(body), body[at:]))
        return cls(len(body), between, places, inputs.rows, inputs.batched, options)

    def read(self, body: bytes, reader: ArrayReader) -> tuple[Inputs, Options] | None:
        """Reads a message of this kind; None of any other, and where some number has to be looked at more closely."""
        if len(body) != self.size:
            return None
        for start, end, constant in self.between:
            if body[start:end] != constant:
                return None
        arrays: Arrays = {name: np.ndarray(shape, dtype, body, start) for name, dtype, shape, start, _ in self.places}
        inputs = reader.read(arrays, self.rows)
        if inputs is None:
            return None
        if not self.batched:
            inputs = msgspec.structs.replace(inputs, batched=False)
        return inputs, self.options


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def metadata(policy: Policy, inputs: Mapping[str, Any]) -> bytes:
    """Returns the first message of a connection: what the policy is, and what its observations are."""
    version = policy.versions.active.version
    about = {"policy": policy.name, "version": version.name, "train_step": version.train_step, "inputs": inputs}
    return encode(about)


def actions_of(answer: dict[str, Any], infer_ms: Any, encoded: Callable[[Any], bytes]) -> dict[str, Any]:
    """Returns the result of a message from the answer of our own route, whose policy state stays here."""
    action = Raw(encoded(answer["action"]))
    named: dict[str, Any] = {"action": action, "actions": action}
    rest = {key: value for key, value in answer.items() if key not in ("action", "policy_state")}
    return {**named, "server_timing": {"infer_ms": infer_ms}, **rest}


def reset_answer(policy: Policy) -> bytes:
    """Returns the answer to a message that ends the episode."""
    version = policy.versions.active.version
    return encode({"reset": True, "version": version.name, "train_step": version.train_step})
