"""A policy's spec → what reads its requests and writes its answers: one for all policies with the same spec.

A hundred policies of one architecture then take the memory of one, and of the processor's caches, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.inference.response import ResponseTemplates, response_templates
from app.inputs.defaults import Defaults
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from app.settings import Settings
from saver.artifact import PolicySpec, ServingInfo


@dataclass(frozen=True)
class SpecParts:
    """What depends on the spec alone, and on nothing of the policy beside it."""

    typed_decoder: TypedDecoder
    reader: InputValidator
    templates: ResponseTemplates
    defaults: Defaults


class AllSpecParts:
    """The parts of all specs so far. `rows_limit`, `strict_bounds`, `non_finite`: see `InputValidator`."""

    def __init__(self, *, rows_limit: int, strict_bounds: bool, non_finite: bool) -> None:
        self._rows_limit, self._strict_bounds, self._non_finite = rows_limit, strict_bounds, non_finite
        self._made: list[tuple[PolicySpec, ServingInfo, SpecParts]] = []

    @classmethod
    def under(cls, settings: Settings) -> AllSpecParts:
        """Makes none, to be made as a server's settings say."""
        non_finite = settings.non_finite == "accept"
        return cls(rows_limit=settings.rows_limit, strict_bounds=settings.strict_bounds, non_finite=non_finite)

    def of(self, spec: PolicySpec, serving: ServingInfo) -> SpecParts:
        """Returns the parts for a spec; makes them where there are none so far."""
        for known, known_serving, parts in self._made:
            if known == spec and known_serving == serving:
                return parts
        made = SpecParts(
            TypedDecoder(spec, rows_limit=self._rows_limit),
            InputValidator(
                spec,
                rows_limit=self._rows_limit,
                strict_bounds=self._strict_bounds,
                non_finite=self._non_finite,
            ),
            response_templates(spec, serving),
            Defaults(spec),
        )
        self._made.append((spec, serving, made))
        return made
