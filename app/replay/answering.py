"""Recorded rows → answered again, and compared: the loop over a recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.noise import fresh_noise
from app.errors import UnusablePolicy
from app.inputs.defaults import Defaults
from app.replay.calls import Asked, noise_of, run_as_then, run_together
from app.replay.environments import CameWith, PerEnvironment, starts_anew, waves
from app.replay.findings import Findings
from app.replay.picture_data import Along, Joints
from app.replay.rows import Names, Rows
from app.replay.segments import Piece
from app.replay.totals import Totals
from app.replay.versions import Version, Versions
from app.traffic.comparison import Compared, compare
from app.traffic.distributions import Distributions
from app.wire.tensors import Array, Arrays
from saver.artifact import LOG_PROB

_ACTION, _SAMPLE, _DISTRIBUTION = "action", "sample", "distribution"


@dataclass(frozen=True)
class _Kind:
    """What rows that are answered together have in common: who answered then and who does now, and how.

    `then`: None where it is gone, or nobody needs it. `drawn`: without a seed, so that no two answers are equal.
    """

    version: Version
    then: Version | None
    same: bool
    mode: str
    seeded: bool
    drawn: bool

    @property
    def function(self) -> str:
        return self.mode or _ACTION


class Answering:
    """Answers the rows of a recording again, piece by piece.

    Args:
      versions: those of the policy.
      fixed: the version that answers all rows; None: each is answered by the version that answered then.
      rows: how many the recording has.
      tolerance: see `compare`.
    """

    def __init__(self, versions: Versions, fixed: Version | None, rows: int, tolerance: float) -> None:
        self._versions = versions
        self._fixed = fixed
        self._tolerance = tolerance
        self._spec = versions.graph.spec
        self._names = Names(self._spec)
        defaults = Defaults(self._spec).complete({}, 1, None)
        self._came_with = CameWith({name: defaults[name] for name in self._names.shifted})
        self._state, self._state_then = PerEnvironment(), PerEnvironment()
        self.distributions = Distributions(self._spec, versions.graph.serving)
        self.findings = Findings(Along(rows), Joints(self._spec.action))
        self._done = 0

    def add(self, piece: Piece) -> None:
        """Answers and compares one piece.

        Raises:
          UnusablePolicy: the policy has not what the rows were answered with.
        """
        names, arrays = self._names, piece.arrays
        steps = arrays["step"]
        inputs = {name: arrays[column] for name, column in names.given.items()}
        values = {name: arrays[column] for name, column in names.shifted.items()}
        inputs |= self._came_with.shifted(piece.environments, steps, values)
        asked = Asked(inputs, piece.starts, steps, arrays["row"])
        keys = np.stack([piece.versions, arrays["train_step"], piece.modes, arrays["seed"] >= 0], axis=1)
        kinds, kind = np.unique(keys, axis=0, return_inverse=True)
        kind = kind.reshape(-1)
        for wave in waves(piece.environments, steps) if names.state else [np.arange(piece.rows)]:
            for number in np.unique(kind[wave]).tolist():
                version, train_step, mode, seeded = kinds[number].tolist()
                places = wave[kind[wave] == number]
                name = piece.version_names[version]
                found = self._kind(name, train_step, piece.mode_names[mode], bool(seeded))
                if found is None:
                    self.findings.gone[name] += len(places)
                    continue
                totals = self.findings.by_version.setdefault((name, train_step, found.same), Totals())
                self._answer(found, Rows(piece, places, asked.at(places)), totals)
        self._done += piece.rows

    def _kind(self, name: str, train_step: int, mode: str, seeded: bool) -> _Kind | None:
        """None where the version that should answer is gone."""
        fixed = self._fixed
        # With a state, an episode over a swap was answered with another one than it has now.
        same = fixed is None or (not self._names.state and (fixed.name, fixed.train_step) == (name, train_step))
        then = fixed
        if fixed is None or not (same or self.distributions.reason or self.distributions.recorded):
            then = self._versions.find(name, train_step)
        version = fixed or then
        if version is None:
            return None
        if mode and mode not in version.graph.serving.signatures:
            why = version.graph.serving.unavailable.get(mode, "not exported")
            raise UnusablePolicy(f"rows were answered with mode {mode}, which the export here has not: {why}")
        drawn = not seeded and (mode == _SAMPLE or (not mode and self._versions.action_draws))
        return _Kind(version, then, same, mode, seeded, drawn)

    def _answer(self, kind: _Kind, rows: Rows, totals: Totals) -> None:
        stateless = rows
        rows = self._with_state(self._state, kind.version, rows)
        self.findings.unknown_state += len(stateless) - len(rows)
        outputs: Arrays = {}
        if len(rows) and (self._names.state or not kind.drawn):
            outputs, kept = self._run(kind, rows, exact=kind.same and bool(self._names.state))
            self.findings.refused += len(rows) - len(kept)
            rows = rows.at(kept) if len(kept) < len(rows) else rows
        if not len(rows):
            return
        self._keep(self._state, rows, outputs)
        if kind.drawn:
            totals.sampled += len(rows)
            self._weigh(kind.version, rows, totals)
        else:
            found = self._compared(rows, outputs)
            if kind.same and not self._names.state and not found.equal.all():
                self._ask_again(kind, rows, found)
            totals.add(found, len(rows) if kind.seeded else 0)
            self.findings.along.add(self._done + rows.places, found.agree)
            self.findings.joints.add(rows.all_recorded(self._names.action), outputs)
        if not kind.same or (kind.drawn and self.distributions.recorded):
            self._diverge(kind, rows, stateless, totals)

    def _with_state(self, kept: PerEnvironment, version: Version, rows: Rows) -> Rows:
        """Those whose policy state is known, with it."""
        if not self._names.state:
            return rows
        anew = starts_anew(rows.recorded("step_type"), rows.asked.steps)
        known = anew | kept.follows(rows.environments, rows.asked.steps)
        if not known.all():
            rows, anew = rows.at(np.flatnonzero(known)), anew[known]
        if not len(rows):
            return rows
        state = {}
        for name, array in self._spec.state_inputs(version.engine.initial_state(len(rows))).items():
            state[name] = np.array(array)
            if not anew.all():
                state[name][~anew] = kept.values(name, rows.environments[~anew])
        return rows.beside(state)

    def _keep(self, kept: PerEnvironment, rows: Rows, outputs: Arrays) -> None:
        if self._names.state:
            state = {name: outputs[output] for name, output in self._names.state.items()}
            kept.keep(rows.environments, rows.asked.steps, state)

    def _run(self, kind: _Kind, rows: Rows, exact: bool) -> tuple[Arrays, Array]:
        """The outputs, and the places among the rows of those that were answered; `exact`: in calls as they were."""
        version = kind.version
        if kind.mode == _SAMPLE:
            noise = version.graph.serving.noise
            if kind.seeded:
                rows = rows.beside(noise_of(noise, rows.recorded("seed"), rows.asked))
            else:
                rows = rows.beside(fresh_noise(noise, len(rows), np.random.default_rng()))
        if exact:
            return run_as_then(version.engine, kind.function, rows.asked, version.bundle.sharing, kind.seeded)
        return run_together(version.engine, kind.function, rows.asked, version.bundle.sharing)

    def _compared(self, rows: Rows, outputs: Arrays) -> Compared:
        names = self._names
        then = rows.all_recorded({leaf: column for leaf, column in names.info.items() if leaf in outputs})
        now = {leaf: outputs[leaf] for leaf in then}
        log_prob = rows.recorded(LOG_PROB)
        if LOG_PROB in outputs and not np.isnan(log_prob).all():
            then[LOG_PROB] = log_prob
            now[LOG_PROB] = np.where(np.isnan(log_prob), log_prob, outputs[LOG_PROB])
        return compare(rows.all_recorded(names.action), outputs, (then, now), self._tolerance)

    def _ask_again(self, kind: _Kind, rows: Rows, found: Compared) -> None:
        """Asks those that differ again, in calls as the server made them."""
        differ = np.flatnonzero(~found.equal)
        outputs, kept = self._run(kind, rows.at(differ), exact=True)
        found.replace(differ[kept], self._compared(rows.at(differ[kept]), outputs))

    def _weigh(self, version: Version, rows: Rows, totals: Totals) -> None:
        """What the version says of actions that were drawn: their log-probability."""
        if LOG_PROB not in version.graph.serving.signatures:
            return
        outputs = version.log_prob(rows.asked.inputs | rows.all_recorded(self._names.action))
        found, then = (array.astype(np.float64) for array in (outputs[LOG_PROB], rows.recorded(LOG_PROB)))
        totals.log_prob.add(found)
        with np.errstate(invalid="ignore"):
            totals.log_prob_apart.add(np.where(then == found, 0.0, np.abs(then - found)))

    def _diverge(self, kind: _Kind, rows: Rows, stateless: Rows, totals: Totals) -> None:
        """Compares the distribution then with that of the version that answers now."""
        if self.distributions.reason:
            return
        if self.distributions.recorded:
            first = rows.all_recorded(self.distributions.recorded)
            self.findings.from_info = True
        elif kind.then is None:
            return
        else:
            before = stateless.at(np.flatnonzero(np.isin(stateless.places, rows.places)))
            first, answered = self._distribution_then(kind.then, before)
            rows = rows.at(np.flatnonzero(np.isin(rows.places, answered)))
        if not len(rows):
            return
        sharing = kind.version.bundle.sharing
        second, kept = run_together(kind.version.engine, _DISTRIBUTION, rows.asked, sharing)
        if len(kept) < len(rows):
            first = {name: array[kept] for name, array in first.items()}
        apart = self.distributions.apart(first, second)
        totals.divergence.add(apart)
        self.findings.along.add_divergence(self._done + rows.places[kept], apart)

    def _distribution_then(self, then: Version, rows: Rows) -> tuple[Arrays, Array]:
        """That of the version that answered then, with the states that it had; and the places of rows that have one."""
        rows, sharing = self._with_state(self._state_then, then, rows), then.bundle.sharing
        if not len(rows):
            return {}, rows.places
        if self._names.state:
            outputs, kept = run_together(then.engine, _ACTION, rows.asked, sharing)
            rows = rows.at(kept)
            self._keep(self._state_then, rows, outputs)
        first, kept = run_together(then.engine, _DISTRIBUTION, rows.asked, sharing)
        return first, rows.places[kept]
