"""What the active version answered → the same asked of a shadow, and how its answers compare. Blocks; one thread."""

from __future__ import annotations

import functools
import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.batching.compute import Complete, gathered
from app.batching.failures import why_failed
from app.batching.rule import Job
from app.engine.base import Engine
from app.inputs.defaults import Defaults
from app.metrics import FINE_LATENCY_S
from app.offload import let_others_run
from app.rpc.messages import Arm, ShadowFigures
from app.traffic.comparison import compare
from app.traffic.distributions import Distributions
from app.versions.active import Loader
from app.versions.lease import LoadedVersion
from app.wire.tensors import Array, Arrays
from saver.artifact import Leaf, PolicySpec, leaves

log = logging.getLogger("policy_server.traffic")

ACTION, DISTRIBUTION = "action", "distribution"
# Of the range of an action, or of 1 where it has no bounds.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Sent:
    """An answer that was sent: its job, the outputs that count for a comparison, and the version that gave it."""

    job: Job
    outputs: Arrays
    loaded: LoadedVersion[Engine]


class Asking:
    """Asks one shadow, with an engine of its own. Noise, seeds and policy states are those that the active version had.

    Where chance decides the action, as nobody gave it noise, no two answers can be compared, but their distributions
    can. For these a second copy of the active version is asked too, as the first one may be in use.
    """

    def __init__(self, arm: Arm, loader: Loader) -> None:
        self._arm = arm
        self._loader = loader
        self._spec = arm.graph.spec
        self._apart = bool(arm.bundle.dependent_rows)
        self._complete: Complete = Defaults(self._spec).complete
        self._distributions = Distributions(self._spec, arm.graph.serving)
        self._tolerance = tolerances(self._spec)
        self._engine: Engine
        self._draws = False
        # The copy of the active version, by its digest; None where it cannot be loaded.
        self._active: tuple[str, Engine | None] = ("", None)

    def load(self) -> None:
        """Loads the shadow; raises what the loader raises."""
        self._engine = self._loader.load(self._arm.graph, self._arm.bundle)
        self._draws = self._engine.draws

    def names(self, function: str) -> Sequence[str]:
        """Returns which outputs of a function count for the comparison; none where it cannot be compared."""
        if function == DISTRIBUTION:
            return () if self._distributions.reason else tuple(self._arm.graph.serving.signatures[DISTRIBUTION].outputs)
        if function == ACTION and self._draws and self._distributions.reason:
            return ()
        return tuple(self._tolerance)

    def compared(self, sent: Sequence[Sent]) -> ShadowFigures:
        """Asks all, those of a function in one call, and compares."""
        figures = ShadowFigures()
        for function in dict.fromkeys(one.job.function for one in sent):
            these = [one for one in sent if one.job.function == function]
            for group in [[one] for one in these] if self._apart else [these]:
                figures = figures.joined(self._of_group(function, group))
                let_others_run()
        return figures

    def _of_group(self, function: str, sent: Sequence[Sent]) -> ShadowFigures:
        """Asks requests of one function in one call; where that fails, in one call each."""
        began = perf_counter()
        try:
            jobs = [one.job for one in sent]
            inputs = gathered(self._engine, jobs, sum(job.rows for job in jobs), self._complete)
            outputs = _wanted(self._engine.run(function, inputs), self.names(function))
            # What excludes an action has infinite parameters.
            failed = "" if function == DISTRIBUTION else why_failed(outputs)
        except Exception as error:
            failed = why_failed(error)
        if failed and len(sent) == 1:
            return ShadowFigures(failures=1, failure=failed)
        if failed:
            each = [self._of_group(function, [one]) for one in sent]
            return functools.reduce(ShadowFigures.joined, each)
        took = bisect_left(FINE_LATENCY_S, perf_counter() - began)
        let_others_run()
        figures = ShadowFigures(answers=len(sent), seconds={took: len(sent)})
        first = _joined([one.outputs for one in sent])
        if function == DISTRIBUTION:
            return figures.joined(self._divergence(first, outputs))
        if function != ACTION or not self._draws:
            figures = figures.joined(self._actions(first, outputs))
            let_others_run()
        return figures.joined(self._distributions_of([one.loaded for one in sent], inputs))

    def _actions(self, first: Arrays, second: Arrays) -> ShadowFigures:
        found = compare(first, second, ({}, {}), self._tolerance)
        # An answer that is no number differs infinitely from others, of which there is no largest.
        largest = max(float(apart.max(initial=0.0, where=np.isfinite(apart))) for apart in found.differences.values())
        return ShadowFigures(compared=len(found.agree), agreed=int(found.agree.sum()), max_difference=largest)

    def _distributions_of(self, versions: Sequence[LoadedVersion[Engine]], inputs: Arrays) -> ShadowFigures:
        """Compares the distributions that the actions came from, where their divergence has a closed form."""
        digests = {loaded.version.digest for loaded in versions}
        if self._distributions.reason or len(digests) > 1:  # what was asked over a swap
            return ShadowFigures()
        active = self._copy_of(versions[0])
        if active is None:
            return ShadowFigures()
        try:
            first = active.run(DISTRIBUTION, inputs)
            let_others_run()
            second = self._engine.run(DISTRIBUTION, inputs)
        except Exception:
            log.exception("the distributions of a shadow were not compared")
            return ShadowFigures()
        let_others_run()
        return self._divergence(first, second)

    def _divergence(self, first: Arrays, second: Arrays) -> ShadowFigures:
        apart = self._distributions.apart(first, second)
        known = apart[~np.isnan(apart)]
        finite = known[np.isfinite(known)]
        return ShadowFigures(kl=float(finite.sum()), kl_rows=len(finite), kl_infinite=len(known) - len(finite))

    def _copy_of(self, loaded: LoadedVersion[Engine]) -> Engine | None:
        """A copy of the active version; None where none can be had."""
        digest = loaded.version.digest
        if self._active[0] != digest:
            before = self._active[1]
            if before is not None:
                self._loader.give_back(before)
            self._active = digest, None
            try:
                if loaded.made_of is not None:
                    self._active = digest, self._loader.load(*loaded.made_of)
            except Exception:  # its files have gone, say: the next version is another chance
                return None
        return self._active[1]


def tolerances(spec: PolicySpec) -> dict[str, Array | float]:
    """Returns how far numbers of each leaf of the action may lie apart, by its name."""
    return {leaf.name: _tolerance(leaf) for _, leaf in leaves(spec.action, ACTION)}


def _tolerance(leaf: Leaf) -> Array | float:
    if leaf.minimum is None or leaf.maximum is None:
        return TOLERANCE
    span = np.asarray(leaf.maximum, np.float64) - np.asarray(leaf.minimum, np.float64)
    return np.where(np.isfinite(span), span, 1.0) * TOLERANCE


def _wanted(outputs: Arrays, names: Sequence[str]) -> Arrays:
    return {name: outputs[name] for name in names}


def _joined(each: Sequence[Arrays]) -> Arrays:
    if len(each) == 1:
        return each[0]
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}
