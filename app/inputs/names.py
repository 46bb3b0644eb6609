"""What the fields of a policy are called in a request, and what to say to those who call them otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from app.errors import DoesNotFit, NotJson, Problem
from saver.artifact import Leaf, Nest, PolicySpec, leaves, pack

OPTIONS = "options"
DEFAULTED = ("step_type", "reward", "discount", "policy_state")
# The example of an image would be pages long.
MOST_NUMBERS_SHOWN = 256
# In a message it is no longer than this.
_LONGEST_EXAMPLE = 400
# Other servers' forms, by the fields that give them away.
_FORMS = {
    "instances": "is TensorFlow Serving's form",
    "signature_name": "is TensorFlow Serving's form",
    "inputs": "is the form of TensorFlow Serving or of the Open Inference Protocol",
    "outputs": "is the form of the Open Inference Protocol",
    "parameters": "is the form of the Open Inference Protocol",
    "dataframe_split": "is MLflow's form",
    "dataframe_records": "is MLflow's form",
}
# What the observation is called elsewhere.
_OBSERVATION = ("obs", "observations", "state", "states", "input", "data", "features", "x", "image", "sensors", "0")
_LIKELY = dict.fromkeys(_OBSERVATION, "observation") | {
    "done": "step_type",
    "terminated": "step_type",
    "rewards": "reward",
    "hidden_state": "policy_state",
    "rnn_state": "policy_state",
    "option": OPTIONS,
    "params": OPTIONS,
}


def top_level(spec: PolicySpec) -> dict[str, Nest]:
    """The fields of a request, by friendly name."""
    if isinstance(spec.inputs, dict):
        return spec.inputs
    if isinstance(spec.inputs, Leaf):
        return {spec.inputs.name: spec.inputs}
    return {str(index): child for index, child in enumerate(spec.inputs)}


def names_of(nests: Mapping[str, Nest]) -> dict[str, Nest]:
    """Returns every name that a field may have: friendly, nested path, flattened, and flattened as Python keyword.

    A field whose friendly name is taken by the request's own `options` goes by `request_name`.
    """
    names: dict[str, Nest] = dict(nests)
    for name, leaf in _spellings(nests):
        names.setdefault(name, leaf)
    if OPTIONS in nests:
        name = request_name(OPTIONS, nests)
        names[name] = nests[OPTIONS]
        names.setdefault(_keyword(name), nests[OPTIONS])
    return names


def request_name(top: str, nests: Collection[str]) -> str:
    """The name of a field in a request: its own, and one with `0/` before it where that means the options."""
    if top != OPTIONS:
        return top
    name = f"0/{top}"
    while name in nests:
        name = f"0/{name}"
    return name


def asked_fields(spec: PolicySpec) -> str:
    """What refusals call the input: the observation, or the fields of an export without time steps."""
    nests = top_level(spec)
    return "observation" if spec.takes_time_step else ", ".join(request_name(name, nests) for name in nests)


def example_of(leaf: Leaf) -> Any:
    """A value inside the bounds, in Python's own numbers: NumPy's would turn the bounds of uint64 into floats."""
    shape = tuple(1 if size is None else size for size in leaf.shape)
    value = {"string": "", "bool": False}.get(leaf.dtype, 0 if leaf.is_integer else 0.1)
    array = np.full(shape, value, dtype=object)
    if leaf.minimum is not None:
        array = np.maximum(array, np.array(leaf.minimum, object))
    if leaf.maximum is not None:
        array = np.minimum(array, np.array(leaf.maximum, object))
    return np.asarray(array, object).tolist()


class Hint:
    """Says what this server takes to callers that send what another one does. `called`: fields → names in a request."""

    def __init__(self, spec: PolicySpec, called: Mapping[str, str]) -> None:
        nests = top_level(spec)
        self._called = called
        required = [top for top in nests if not (spec.takes_time_step and top in DEFAULTED)]
        self._only = called[required[0]] if len(required) == 1 else ""
        self.example = _short({called[top]: _example(nests[top]) for top in required})

    def check(self, body: Mapping[str, Any], key: str, names: Collection[str]) -> None:
        """Checks a field that is none of the policy's.

        Raises:
          DoesNotFit: the body is in the form of another server.
        """
        form = _FORMS.get(key)
        if form is not None and not any(name in names for name in body):
            raise DoesNotFit([Problem(key, form, f"this server's form: {self.example}")])

    def expected(self, key: str) -> str:
        """Returns what should have been sent in the place of a field that is none."""
        meant = _LIKELY.get(key.lower(), "")
        if meant == "observation" and meant not in self._called:
            meant = self._only
        known = f"one of {', '.join([*self._called.values(), OPTIONS])}"
        if meant == OPTIONS or meant in self._called.values():
            return f"{known}; did you mean {meant}, as in {self.example}?"
        return known

    def no_object(self, error: NotJson) -> NotJson:
        """The refusal of a body that is JSON, but no object."""
        return NotJson(f"{error}: {self.example}", is_json=True)


def _example(nest: Nest) -> Any:
    numbers = sum(int(np.prod([size or 1 for size in leaf.shape], dtype=object)) for _, leaf in leaves(nest))
    if numbers > MOST_NUMBERS_SHOWN:
        return pack(nest, lambda leaf: f"<{leaf.dtype} of shape {list(leaf.shape)}>")
    return pack(nest, example_of)


def _short(example: Any) -> str:
    text = json.dumps(example)
    return text if len(text) <= _LONGEST_EXAMPLE else text[: _LONGEST_EXAMPLE - 4] + " …}"


def _spellings(nests: Mapping[str, Nest]) -> Iterator[tuple[str, Leaf]]:
    found = [pair for top, nest in nests.items() for pair in leaves(nest, top)]
    yield from found
    for _, leaf in found:
        yield leaf.name, leaf
    for _, leaf in found:
        yield _keyword(leaf.name), leaf


def _keyword(name: str) -> str:
    """What TensorFlow makes of a name for a signature's keyword arguments."""
    keyword = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"arg_{keyword}" if keyword[:1].isdigit() else keyword
