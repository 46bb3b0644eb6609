"""One policy's builder: a checkpoint in, a version that may serve out, as a bundle.

Every method blocks. All calls come from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.artifacts.bundle import AUTO, Bundle, Graph, Prepared, RowSharing
from app.artifacts.checkpoint_identity import manifest_of, plain_files
from app.background import all_cores_are_wanted, rest, resting
from app.builder import checkpoint_validation, probe
from app.builder.embedded_constants import embedded_constants
from app.builder.engine_choice import EngineChoice
from app.builder.open_export import train_step_of
from app.builder.probe import NO_TRIAL, Probed, Trial
from app.builder.spare_files import SpareFiles
from app.builder.unsupported import draws
from app.engine.savedmodel.checkpoint_reader import StoredValues, numbers_in
from app.engine.savedmodel.engine import TensorFlowEngine
from app.engine.savedmodel.load import load_copy, model_folder, restore
from app.errors import SwapRefused, UnusablePolicy
from saver.artifact import (
    GRAPH_FILE,
    SERVING_FOLDER,
    CheckpointManifest,
    IncompleteError,
    check_files,
    copy_files,
    digest_of,
)
from saver.artifact.publishing import publish, staged_folder

# Rather than keep answers waiting, a version comes by so much later; of more numbers, a call takes longer than a turn,
# and rests between calls were of no use.
_MOST_REST_S, _MOST_NUMBERS = 0.3, 2**21


@dataclass
class _OfGraph:
    """Parts that builders of policies with one graph share: what was compiled once is not compiled for each of them.

    `copy`: of the policy, with whichever weights; None where it was half overwritten.
    """

    choice: EngineChoice
    copy: TensorFlowEngine | None


class Builder:
    """Prepares the versions of one policy. `report` is called with the name of each step done.

    `gives_way`: whether others want the core that a version is prepared on.

    Args:
      graph: the policy's.
      engine: what every version has to run on, or "auto".
      like: the builder of another policy whose graph differs in weights alone, if there is one.
    """

    def __init__(self, graph: Graph, engine: str = AUTO, like: Builder | None = None) -> None:
        self.graph = graph
        self._of_graph: _OfGraph = (
            _OfGraph(EngineChoice(graph, engine), load_copy(graph)) if like is None else like._of_graph
        )
        self._variables = checkpoint_validation.variables_of(model_folder(graph))
        self._probes = probe.probes_of_spec(graph.spec)
        self._one_row = False
        self._spare_files = SpareFiles()
        self.report: Callable[[str], None] = lambda _: None
        self.gives_way: Callable[[], bool] = all_cores_are_wanted

    @property
    def action_draws(self) -> bool:
        """Whether `action` answers equal inputs differently from call to call."""
        return draws((self._of_graph.copy or load_copy(self.graph)).functions["action"].concrete)

    def prepare(
        self,
        source: Path | None,
        digest: str,
        destination: Path,
        trial: Trial = NO_TRIAL,
        compiled: bool = True,
    ) -> Prepared:
        """Makes a version ready to serve: copied, checked, restored, verified, and put at `destination`.

        Args:
          source: the checkpoint's folder; None for the export's own weights.
          digest: what identifies the version.
          destination: where its bundle shall lie; an earlier one is replaced.
          trial: inputs that the version is asked too, and the version whose answers it has to match.
          compiled: whether it may be compiled at all.

        Raises:
          SwapRefused: it may not serve; the message says why. Nothing lies at `destination`.
        """
        # A policy that opens is waited for.
        rests = trial.serving is not None and numbers_in(self._variables) <= _MOST_NUMBERS
        most_rest_s = _MOST_REST_S if rests else 0.0
        try:
            with resting(most_rest_s, self.gives_way), staged_folder(destination) as staged:
                promised = manifest_of(source) if source is not None else None
                files, values = self._copied(source, promised, digest, staged) if source is not None else ({}, None)
                unfinished = Bundle(staged, self.graph.digest, digest, -1, "", "", {}, files)
                copy = self._restored(unfinished, values)
                loaded_at = time.time()
                probes = self._probes + probe.probes_of_requests(self.graph.spec, trial.given, trial.recorded)
                probed = probe.examine(copy, self.graph.spec, probes)
                if probed.failed and (trial.serving is not None or source is not None):
                    probe.check_no_worse(probed, self._before(trial.serving, probed))
                    copy = self._restored(unfinished, values)
                self.report("probe inputs asked")
                train_step = train_step_of(copy.model)
                _check_promise(promised, train_step)
                self._one_row = probed.one_row or (self._one_row and not probed.any_answered)
                copy.sharing = RowSharing(one_row=self._one_row)
                # Where some are not answered, those that are must not be missing from what is compared.
                rows = [p.inputs for p in probed.probes] if probed.failed else trial.rows
                choice = self._of_graph.choice
                choice.report = self.report
                bundle = choice.finished(unfinished, copy, rows, compiled, probed.why_unchecked)
                bundle = replace(bundle, train_step=train_step, probed=probed.public())
                bundle.write()
                publish(staged, destination, sync=False)
                self._spare_files.note(destination, files)
        except OSError as error:
            raise SwapRefused(f"no room for a copy of it: {error.strerror or error}", for_now=True) from error
        return Prepared(replace(bundle, folder=destination), loaded_at)

    def check(self, folder: Path) -> int:
        """Judges a checkpoint as far as can be done without restoring it; returns its train step, -1 if unknown.

        Raises:
          SwapRefused: it may not serve; the message says why.
        """
        manifest = manifest_of(folder)
        try:
            check_files(folder, manifest.files if manifest else {})
        except IncompleteError as error:
            raise SwapRefused(str(error)) from None
        checkpoint_validation.check(folder, self._variables)
        train_step = checkpoint_validation.train_step_in(folder)
        _check_promise(manifest, train_step)
        return train_step

    def _before(self, serving: tuple[Graph, Bundle] | None, found: Probed) -> Probed:
        """What the version before a new one answers to the probes that the new one failed on."""
        graph, bundle = serving or (self.graph, Bundle(Path(), self.graph.digest, self.graph.digest, -1, "", "", {}))
        probes = [replace(probe, problem="") for probe in found.failed]
        try:
            if graph.digest == self.graph.digest:
                return probe.examine(self._restored(bundle), graph.spec, probes)
            copy = load_copy(graph)
            restore(copy, graph, bundle)
            return probe.examine(copy, graph.spec, probes)
        except (SwapRefused, UnusablePolicy):
            return Probed(tuple(probes))  # it is gone: nothing excuses the new one

    def needs_own_graph(self, folder: Path) -> bool:
        """Whether an export differs from the graph in more than variables: a constant, such as an ε that decays.

        False also where the two cannot be compared, as only one of them has `serving/`.

        Raises:
          SwapRefused: its variables do not fit the graph.
        """
        self._check_variables(folder, folder)
        other = folder if self.graph.plain else folder / SERVING_FOLDER
        if self.graph.plain != (not (folder / SERVING_FOLDER).exists()):
            return False
        return embedded_constants(other) != embedded_constants(model_folder(self.graph))

    def _copied(
        self, source: Path, promised: CheckpointManifest | None, digest: str, staged: Path
    ) -> tuple[dict[str, str], StoredValues]:
        """Copies and checks a checkpoint; nothing that happens to the original matters from then on."""
        hashes = promised.files if promised is not None else {}
        try:
            files = copy_files(source, hashes or plain_files(source), staged, hashes, self._spare_files.opened)
        except IncompleteError as error:
            raise SwapRefused(str(error)) from None
        if digest_of(files) != digest:
            raise SwapRefused("it was replaced while it was read")
        return files, self._check_variables(staged, source, checked=bool(hashes))

    def _check_variables(self, folder: Path, source: Path, checked: bool = False) -> StoredValues:
        """Raises SwapRefused where the variables in `folder`, which come from `source`, do not fit."""
        try:
            return checkpoint_validation.check(folder, self._variables, keep=True, checked=checked)
        except SwapRefused as refusal:
            if not (source / GRAPH_FILE).exists():
                raise
            raise SwapRefused(
                f"it is an export, and its variables do not fit the graph that serves: {refusal}"
            ) from None

    def _restored(self, bundle: Bundle, values: StoredValues | None = None) -> TensorFlowEngine:
        """A copy of the policy with these weights; the same one each time, unless a restore has failed half-way."""
        shared = self._of_graph
        copy, shared.copy = shared.copy or load_copy(self.graph), None
        rest()
        restore(copy, self.graph, bundle, values)
        shared.copy = copy
        return copy


def _check_promise(promised: CheckpointManifest | None, train_step: int) -> None:
    if promised is not None and promised.train_step != train_step:
        raise SwapRefused(f"checkpoint.json says train step {promised.train_step}, the weights say {train_step}")
