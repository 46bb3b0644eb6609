"""The fields of a policy's requests, and the types from which msgspec compiles a decoder of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.inputs.names import DEFAULTED, top_level
from app.inputs.options import OPTION_FIELDS, Options
from saver.artifact import Leaf, Nest, PolicySpec, leaves

NO_OPTIONS = Options()


class NotTypable(Exception):
    """The spec has something that types cannot say."""


class Field:
    """A field of a request, or a leaf of the field `top`; `key` is its attribute in the decoded struct.

    `parts`: its leaves, each with what finds it in the decoded value of the field.
    """

    def __init__(self, key: str, name: str, nest: Nest, top: str, spec: PolicySpec) -> None:
        self.key = key
        self.name = name
        self.nest = nest
        self.optional = spec.takes_time_step and top in DEFAULTED
        self.is_state = top == "policy_state"
        self.is_step_type = top == "step_type" and self.optional
        self.parts = list(_parts(nest, itself))


def itself(value: Any) -> Any:
    """Finds the leaf of a field that consists of nothing else."""
    return value


def fields_of_spec(spec: PolicySpec, without: Collection[str] = (), flattened: bool = False) -> list[tuple[Any, ...]]:
    """Returns what makes the `Field` of each field of a policy's requests: see `TypedDecoder`."""
    named = list(_named(spec, without, flattened))
    return [(f"f{i}", name, nest, top, spec) for i, (name, nest, top) in enumerate(named)]


def _named(spec: PolicySpec, without: Collection[str], flattened: bool) -> Iterable[tuple[str, Nest, str]]:
    """Yields the name of each field, its nest, and the field of the spec that it is, or belongs to."""
    for top, nest in top_level(spec).items():
        if top in without:
            continue
        if flattened:
            yield from ((leaf.name, leaf, top) for _, leaf in leaves(nest))
        else:
            yield top, nest, top


def _parts(nest: Nest, get: Callable[[Any], Any]) -> Iterable[tuple[Leaf, Callable[[Any], Any]]]:
    if isinstance(nest, Leaf):
        yield nest, get
    elif isinstance(nest, dict):
        for index, child in enumerate(nest.values()):
            yield from _parts(child, functools.partial(_attribute, get, f"f{index}"))
    else:
        for index, child in enumerate(nest):
            yield from _parts(child, functools.partial(_item, get, index))


def _attribute(get: Callable[[Any], Any], key: str, value: Any) -> Any:
    return getattr(get(value), key)


def _item(get: Callable[[Any], Any], index: int, value: Any) -> Any:
    return get(value)[index]


_RawOptions = msgspec.defstruct(
    "Options",
    [(name, field.kind.decoded() | UnsetType, UNSET) for name, field in OPTION_FIELDS.items()],
    forbid_unknown_fields=True,
)


def options_of(raw: Any) -> Options:
    """Returns the options that were decoded."""
    given = {name: getattr(raw, name) for name in OPTION_FIELDS}
    return Options(**{name: value for name, value in given.items() if value is not UNSET})


def request_type(
    fields: Iterable[Field], more: Mapping[str, tuple[str, Any]], type_of: Callable[[Nest, bool], Any]
) -> Any:
    """Returns the type of a request. `more`: fields beside those of the spec; `type_of`: the type of a field.

    Raises:
      NotTypable: there is none.
    """
    members: list[Any] = []
    for field in fields:
        kind = type_of(field.nest, field.is_step_type)
        members.append((field.key, kind | UnsetType, UNSET) if field.optional else (field.key, kind))
    members.sort(key=len)  # those with defaults come last
    members.append(("options", _RawOptions | UnsetType, UNSET))
    members += [(key, kind | UnsetType, UNSET) for key, (_, kind) in more.items()]
    names = {field.key: field.name for field in fields} | {key: name for key, (name, _) in more.items()}
    if len({"options", *names.values()}) <= len(names):
        raise NotTypable
    _check_names(names.values())
    return msgspec.defstruct("Request", members, forbid_unknown_fields=True, rename=names)


def nest_type(nest: Nest, leaf_type: Callable[[Leaf], Any]) -> Any:
    """Returns the type of a nest, from what gives that of a leaf; raises NotTypable."""
    if isinstance(nest, Leaf):
        return leaf_type(nest)
    if isinstance(nest, tuple):
        return tuple[tuple(nest_type(child, leaf_type) for child in nest)]  # type: ignore[misc]
    members = [(f"f{index}", nest_type(child, leaf_type)) for index, child in enumerate(nest.values())]
    names = {f"f{index}": name for index, name in enumerate(nest)}
    _check_names(names.values())
    return msgspec.defstruct("Nest", members, forbid_unknown_fields=True, rename=names)


def _check_names(names: Iterable[str]) -> None:
    """Raises `NotTypable` where msgspec has no such names."""
    if any(character < " " or character in '"\\' for name in names for character in name):
        raise NotTypable
