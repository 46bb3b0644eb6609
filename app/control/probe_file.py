"""`--probe-inputs FILE`: requests that a policy can answer, from an operator; read and checked against its spec.

[{"observation": [0.1, 0, 0, 0]}, …]           a list of bodies as `action` takes them, or one in each line
{"cartpole": [{…}, …], "arm": [{…}]}           lists by policy, where several are served
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from app.errors import DoesNotFit, UnusablePolicy
from app.inputs.defaults import Defaults
from app.inputs.options import read_options
from app.inputs.validate import InputValidator
from app.settings import SettingsError
from app.wire.tensors import Arrays
from saver.artifact import PolicySpec

# Each is asked of every version, and compared between two engines.
MOST_ROWS = 256


class ProbeFile:
    """The bodies in a file, by the policy that they are for.

    Raises:
      SettingsError: it cannot be read, is of another form, or names a policy that is not served.
    """

    def __init__(self, path: Path, policies: Collection[str]) -> None:
        self._path = path
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the probe inputs {path} cannot be read: {error}") from None
        self._bodies = self._by_policy(text, policies)

    def inputs(self, policy: str, spec: PolicySpec) -> list[tuple[str, Arrays]]:
        """Its rows, [1, …] each, with what a person calls them; without policy state where none is given.

        Raises:
          UnusablePolicy: one is no input of this policy.
        """
        reader, defaults = InputValidator(spec, rows_limit=MOST_ROWS, strict_bounds=False), Defaults(spec)
        rows: list[tuple[str, Arrays]] = []
        for where, body in self._bodies.get(policy, ()):
            try:
                read_options(body.get("options", {}))
                sent = reader.read({name: value for name, value in body.items() if name != "options"})
            except DoesNotFit as error:
                raise UnusablePolicy(f"the probe inputs {self._path}, {where}: {error}") from None
            whole = defaults.complete(sent.arrays, sent.rows, {} if sent.needs_state else None)
            name = f"{where} of {self._path.name}"
            rows += [(name, {key: array[row : row + 1] for key, array in whole.items()}) for row in range(sent.rows)]
        if len(rows) > MOST_ROWS:
            raise UnusablePolicy(f"the probe inputs {self._path} have {len(rows)} rows: expected at most {MOST_ROWS}")
        return rows

    def _by_policy(self, text: str, policies: Collection[str]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        try:
            data = json.loads(text)
        except ValueError:
            return dict.fromkeys(policies, self._lines(text))
        if isinstance(data, list):
            return dict.fromkeys(policies, self._checked(data))
        if not isinstance(data, dict):
            raise self._wrong("")
        if not data or not all(isinstance(value, list) and _are_bodies(value) for value in data.values()):
            return dict.fromkeys(policies, self._checked([data]))  # a single line
        unknown = sorted(data.keys() - set(policies))
        if unknown:
            served = ", ".join(policies)
            raise SettingsError(f"{self._path} has inputs for {unknown[0]!r}, which is not served; there are: {served}")
        return {policy: self._checked(bodies) for policy, bodies in data.items()}

    def _lines(self, text: str) -> list[tuple[str, dict[str, Any]]]:
        bodies = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                body = json.loads(line)
            except ValueError as error:
                raise SettingsError(f"{self._path}, line {number}: no JSON ({error})") from None
            if not isinstance(body, dict):
                raise self._wrong(f", line {number}")
            bodies.append((f"line {number}", body))
        if not bodies:
            raise self._wrong("")
        return bodies

    def _checked(self, bodies: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
        for number, body in enumerate(bodies, 1):
            if not isinstance(body, dict):
                raise self._wrong(f", item {number}")
        return [(f"item {number}", body) for number, body in enumerate(bodies, 1)]

    def _wrong(self, where: str) -> SettingsError:
        return SettingsError(
            f"{self._path}{where}: expected JSON objects as the route action takes them, in a list or one in each "
            "line, or such lists by policy"
        )


def _are_bodies(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)
