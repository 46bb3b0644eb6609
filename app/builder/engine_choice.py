"""What a version runs on: LiteRT where its answers equal TensorFlow's, else TensorFlow, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.artifacts.bundle import COMPILED_FILE, LITERT, TENSORFLOW, Bundle, Graph, RowSharing
from app.background import rest
from app.builder.compile import CannotCompile, Compiler
from app.builder.equivalence import check_equivalence
from app.builder.noise_inputs import noise_for
from app.builder.open_export import metadata_of
from app.builder.row_comparison import Pair, Unequal
from app.builder.row_dependence import Rows
from app.engine.large_model import is_known
from app.engine.litert import LARGE_BYTES, LiteRTEngine
from app.engine.savedmodel.engine import TensorFlowEngine
from app.errors import SwapRefused
from app.wire.tensors import Arrays
from saver.artifact import hash_files
from saver.impure_ops import seed_of

# Of more weights no file is made (docs/decisions/0008). Where LiteRT's interface is not known, packing them would keep
# answers waiting, 0.6 ms a MB.
_MOST_BYTES, _MOST_UNDER_LOCK = 32 << 20, LARGE_BYTES
_AGAIN = "the same again after each start"
# Rows of the calls that compare a version: the first one, and those of which only the weights in the file changed.
_FIRST_ROWS, _LATER_ROWS = (1, 3, 16), (3,)


class EngineChoice:
    """Chooses an engine for each version of one graph. `report` is called with the name of each step done.

    Args:
      graph: what the versions have in common.
      engine: the one that it has to be, or "auto".
    """

    def __init__(self, graph: Graph, engine: str) -> None:
        self._graph = graph
        self._engine = engine
        self._compiler: Compiler | None = None
        self._why_not = ""
        self._checked_once = False
        self._rows = Rows(graph.spec, graph.serving)
        self._probes: dict[int, list[Arrays]] = {}  # of later versions
        self.report: Callable[[str], None] = lambda _: None

    def finished(
        self,
        bundle: Bundle,
        copy: TensorFlowEngine,
        recorded: Sequence[Arrays] = (),
        compiled: bool = True,
        unchecked: str = "",
    ) -> Bundle:
        """Puts what runs a version into the bundle's folder; returns the bundle with it and with what the weights say.

        Args:
          bundle: with the checkpoint's files in its folder.
          copy: of the policy, with the same weights.
          recorded: inputs of real requests, to be compared too.
          compiled: False where compiling it has crashed a process.
          unchecked: why answers of these weights cannot be compared; "" where they can.

        Raises:
          SwapRefused: LiteRT was asked for, and cannot run it.
        """
        if not compiled:
            self._why_not = "the builder process crashed while compiling it"
        # A later version's rows are judged by comparing it: LiteRT is asked each of them alone, TensorFlow all at once.
        later = self._checked_once
        known = self._rows.dependence if later else self._rows.judge(copy, recorded)
        problem = self._problem(bundle, copy, recorded, unchecked)
        if problem and later and self._rows.judge(copy, recorded, again=True) is not known:
            problem = self._problem(bundle, copy, recorded, unchecked)
        engine, reason = LITERT, "proved equal to TensorFlow on probe inputs"
        if problem:
            if self._engine == LITERT:
                raise SwapRefused(f"LiteRT cannot run it: {problem}")
            (bundle.folder / COMPILED_FILE).unlink(missing_ok=True)
            engine, reason = TENSORFLOW, problem + self._of_its_seed(copy, problem)
        files = [path for path in [bundle.folder / COMPILED_FILE] if path.exists()]
        return replace(
            bundle,
            metadata=metadata_of(copy.model),
            engine=engine,
            engine_reason=reason,
            asked_for=self._engine,
            files=dict(bundle.files) | hash_files(bundle.folder, files),
            sharing=self._sharing(copy),
        )

    def _problem(self, bundle: Bundle, copy: TensorFlowEngine, recorded: Sequence[Arrays], unchecked: str) -> str:
        """Why LiteRT may not run it; "" where its file is in the bundle's folder.

        A text, as an exception would keep what is open here, the checkpoint's files, until the collector comes.
        """
        try:
            if unchecked:
                raise CannotCompile(unchecked)
            self._compile(bundle, copy, recorded)
        except OSError:
            raise  # the disk
        except (CannotCompile, Unequal) as error:
            return str(error)
        except Exception as error:  # what its functions are made of may make any of the libraries raise
            return f"compiling it fails: {type(error).__name__}: {str(error)[:200]}"
        return ""

    def _sharing(self, copy: TensorFlowEngine) -> RowSharing:
        """Which rows may share a call: `copy` has been probed with one row and with several."""
        dependence = self._rows.dependence
        if dependence is None:
            return copy.sharing
        whole_batches = dependence.mixes and self._graph.spec.batch_size is not None
        return replace(copy.sharing, dependent=dependence.reason, whole_batches=whole_batches)

    def _of_its_seed(self, copy: TensorFlowEngine, said: str) -> str:
        """What else an operator should know of draws that TensorFlow makes from a seed."""
        if _AGAIN in said or seed_of(copy.functions["action"].concrete) is None:
            return ""
        return f"; action draws from a seed in the export, and so {_AGAIN}"

    def _compile(self, bundle: Bundle, copy: TensorFlowEngine, recorded: Sequence[Arrays]) -> None:
        """Raises CannotCompile or Unequal."""
        compiler = self._compiler_of(copy)
        file = bundle.folder / COMPILED_FILE
        rest()
        patched = compiler.compile(copy, file)
        rest()
        spec, serving = self._graph.spec, self._graph.serving
        is_later = self._checked_once and patched
        rows = _LATER_ROWS if is_later else _FIRST_ROWS
        try:
            engine = LiteRTEngine(file, spec, serving.noise)
        except (RuntimeError, ValueError) as error:
            raise CannotCompile(f"LiteRT cannot load what it was converted to: {str(error)[:200]}") from error
        self.report("compiled")
        if self._rows.dependence is not None and spec.batch_size is not None:
            rows = (spec.batch_size,)
        reference = compiler.of_noise(copy)

        def noise(function: str, count: int, seed: int) -> Arrays:
            return noise_for(reference.functions[function], count, seed)

        pair = Pair(engine, reference, spec, serving, noise, copy, compiler.aliases, self._probes if is_later else {})
        check_equivalence(pair, rows, recorded, compiler.draws, self._rows.dependence is None, joined=is_later)
        self.report("compared with TensorFlow")
        self._checked_once = True

    def _compiler_of(self, copy: TensorFlowEngine) -> Compiler:
        """The compiler, made for the first version; what cannot be compiled once cannot be for others either."""
        if self._compiler is None and not self._why_not:
            try:
                self._check_wanted(copy)
                self._compiler = Compiler(copy, self._graph.spec, self._graph.serving)
            except CannotCompile as error:
                self._why_not = str(error)
        if self._compiler is None:
            raise CannotCompile(self._why_not)
        return self._compiler

    def _check_wanted(self, copy: TensorFlowEngine) -> None:
        if self._engine == TENSORFLOW:
            raise CannotCompile("asked for by --engine")
        variables = getattr(copy.model, "model_variables", ())  # a policy may have none
        size = sum(variable.dtype.size * variable.shape.num_elements() for variable in variables)
        most = _MOST_BYTES if is_known() else _MOST_UNDER_LOCK
        if self._engine != LITERT and size > most:
            raise CannotCompile(f"it has {size / 2**20:.0f} MB of weights: up to {most / 2**20:g} MB are compiled")
