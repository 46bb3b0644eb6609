"""A record of a session and a request → the inference request to make; its result → the next record. Nothing waits."""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import structs

from app.batching.rule import Result
from app.errors import DoesNotFit, NotReady, Problem, SessionConflict, UnknownSession, Unsupported, WeightsGone
from app.experience.writing import StepWriter
from app.inference.policy import Policy
from app.inference.request_parser import InferenceRequest, RequestParser, function_of
from app.inference.response import ResponseTemplates, action_templates
from app.inputs.defaults import FIRST, LAST, MID
from app.inputs.options import Options
from app.inputs.validate import Inputs
from app.sessions.counting import Counting, use_canary
from app.sessions.fields import BeginRequest, StepRequest
from app.sessions.kept_answer import again
from app.sessions.reading import STATE, SessionReader
from app.sessions.record import Answer, Record, Run
from app.sessions.record_validation import Fitting
from app.settings import variable
from app.versions.lease import LoadedVersion
from app.wire.codecs import JSON, Codec
from app.wire.tensors import Array, Arrays
from saver.artifact import Leaf, PolicySpec, leaves, nest_to_json

# So many numbers are faster looked at one by one.
_FEW = 32


class Episodes:
    """The sessions of one policy, without the place where they are stored.

    `writer`: writes the steps of those that are recorded; `keeps_events`: records have them too, for other servers.
    """

    def __init__(
        self,
        policy: Policy,
        parser: RequestParser,
        *,
        rows_limit: int,
        writer: StepWriter | None = None,
        keeps_events: bool = False,
    ) -> None:
        self.policy = policy
        self.writer = writer
        self.keeps_events = keeps_events
        self.reader = SessionReader(policy.spec, policy.reader, rows_limit=rows_limit)
        self._parser = parser
        self._templates: ResponseTemplates = action_templates(policy.spec, policy.serving, with_state=False)
        self._step_type, self._carried = _names(policy.spec)
        self._identity = _identity(policy.spec)
        self._reason = ""  # why there are none
        if not self._step_type:
            self._reason = f"policy {policy.name} takes no time steps (input_fn_and_spec)"
        elif any(leaf.storage.kind not in "biuf" for _, leaf in leaves(policy.spec.state)):
            self._reason = f"the state of policy {policy.name} is not of numbers"
        own = {name for name, _ in self._carried}
        state = {leaf.name: leaf for _, leaf in _state_inputs(policy.spec) if leaf.name in own}
        self.fitting = Fitting(self._identity, state)
        self.counting = Counting(policy, self._step_type)

    def check(self) -> None:
        """Raises Unsupported where the policy cannot have sessions."""
        if self._reason:
            raise Unsupported(f"{self._reason}: it has no sessions")

    def begin(self, request: BeginRequest, id_: str, run_id: str) -> SessionStep:
        """Returns the first step of a session; raises Unsupported where it cannot be recorded, and has to be."""
        inputs, options = request.inputs, request.options
        given = inputs.arrays.get(self._step_type)
        types = _constant(inputs.rows, FIRST) if given is None else given
        arm = self.policy.arms.for_new(id_)
        run = Run(
            policy=self._identity,
            incarnation=secrets.token_hex(8),
            run_id=run_id,
            rows=inputs.rows,
            batched=inputs.batched,
            mode=options.mode,
            seed=options.seed,
            log_prob=options.log_prob,
            recorded=self._is_recorded(request.record, id_),
            arm="" if arm is None else arm.version.digest,
        )
        arrays = {**inputs.arrays, self._step_type: types}
        pending = self._inference_request(run, arrays, bool(self._carried), inputs.outside_bounds, options, 0)
        use_canary(pending.job, arm)
        return SessionStep(
            episodes=self,
            before=None,
            id=id_,
            run=run,
            options=options,
            pending=pending,
            given=given,
            head=b'{"id":%b,"run_id":%b,"step":0,' % (orjson.dumps(id_), orjson.dumps(run_id)),
            fields={"id": id_, "run_id": run_id, "step": 0},
            keeps_weights=request.weights == "episode",
        )

    def step(self, record: Record, request: StepRequest, id_: str = "") -> SessionStep | Answer:
        """Returns the next step of a session, or the answer of its last one once more.

        Raises:
          UnknownSession: the session is another policy's.
          SessionConflict, DoesNotFit: see `is_repeated`.
          WeightsGone: the weights that it keeps are gone.
          Unsupported: see `RequestParser`.
        """
        run, inputs = record.run, request.inputs
        if run.policy != self._identity:
            raise UnknownSession(f"the session was started with another policy of the name {self.policy.name}")
        if is_repeated(record, request):
            return record.answer
        step = record.step + 1
        given = inputs.arrays.get(self._step_type)
        types, resets = _resets(record, request.first, given)
        arrays = {**inputs.arrays, self._step_type: types}
        needs_state = resets is not None and bool(self._carried)
        carries = resets is None or not resets.all()
        if carries:
            arrays |= record.state
        options = run.joined(request.options)
        pending = self._inference_request(run, arrays, needs_state, inputs.outside_bounds, options, step)
        if needs_state and carries:
            pending.job.reset_mask = resets
        if run.arm:
            use_canary(pending.job, self._of_canary(run))
        elif run.retained is not None:
            pending.job.loaded = self._loaded_version(run.retained, record.version, record.train_step)
        return SessionStep(
            episodes=self,
            before=record,
            id=id_,
            run=run,
            options=options,
            pending=pending,
            given=given,
            head=b'{"step":%d,' % step,
            fields={"step": step},
            keeps_weights=False,
        )

    def is_of(self, record: Record, run_id: str | None) -> bool:
        """Returns whether a session is that of this run, with this policy: another one may have had the name."""
        return record.run.run_id == run_id and record.run.policy == self._identity

    def begin_again(self, record: Record, id_: str, codec: Codec) -> Answer:
        """Returns the answer to a request to start that is sent once more; raises as `again` does."""
        answer = again(record, codec)
        self.record_again(record, id_)
        return answer

    def record_again(self, record: Record, id_: str) -> None:
        """Records the last step once more, the answer of which is sent again, where it may have been lost."""
        if self.writer is not None and record.event:
            self.writer.write_again(record, id_, record.run)

    def _is_recorded(self, asked: bool | None, id_: str) -> bool:
        if self.writer is not None:
            return self.writer.is_recorded(id_, asked)
        if asked:
            raise Unsupported(f"record: this server keeps no experience: it needs {variable('experience_dir')}")
        return False

    def _inference_request(
        self, run: Run, arrays: Arrays, needs_state: bool, outside_bounds: int, options: Options, step: int
    ) -> InferenceRequest:
        if options.version is not None:
            raise DoesNotFit([Problem("options.version", "is given", "a session without it: each keeps to its arm")])
        inputs = Inputs(arrays, run.rows, run.batched, needs_state, outside_bounds)
        return self._parser.request(
            self.policy, function_of(self.policy, options), inputs, options, self._templates, step
        )

    def _loaded_version(self, digest: str, version: str, train_step: int) -> LoadedVersion[Any]:
        loaded = self.policy.versions.find(digest)
        if loaded is None and train_step > self.policy.versions.active.version.train_step:
            raise NotReady(f"version {version}, which the session started with, does not serve here yet")
        if loaded is None:
            raise WeightsGone(f"the weights that the session started with (version {version}) are not kept here")
        return loaded

    def _of_canary(self, run: Run) -> LoadedVersion[Any] | None:
        """The version of a session of a canary; None where that has gone."""
        return self.policy.arms.of(run.arm) if run.retained is None else self.policy.versions.find(run.retained)

    def state_after(self, result: Result) -> Arrays:
        """Returns the policy state, [rows, …] by the names that `action` takes it by.

        Raises:
          DoesNotFit: it is not finite, and such inputs are refused.
        """
        state = {}
        for name, output in self._carried:
            array = result.outputs[output]
            self.policy.reader.check_state_after(array)
            # Of a batch with others nothing else should stay.
            state[name] = array if array.base is None else array.copy()
        return state


class SessionStep(msgspec.Struct, frozen=True, eq=False):
    """One step of a session under way: a request for the batcher, and the record that its result leads to.

    `options`: its own, and where it has none the session's. `before`: the record that it follows; None for the first
    step. `given`: [rows] step types that were sent, or None. `head`, `fields`: with what the answer starts, as JSON and
    as fields. `keeps_weights`: from now on the session keeps the version that answers this step.
    """

    episodes: Episodes
    before: Record | None
    id: str
    run: Run
    options: Options
    pending: InferenceRequest
    given: Array | None
    head: bytes
    fields: dict[str, Any]
    keeps_weights: bool

    def after(self, result: Result, codec: Codec) -> Record:
        """Returns the record that follows, with the answer; raises as `state_after` does."""
        run = structs.replace(self.run, retained=result.digest) if self.keeps_weights else self.run
        state = self.episodes.state_after(result)
        ended = None if self.given is None or not _has(self.given, LAST) else self.given == LAST
        answer = Answer(codec.media_type, self._body(result, codec))
        step, arms = self.fields["step"], self.episodes.policy.arms
        sums = None if arms.canary is None else self.episodes.counting.sums(self.before, self.pending.job)
        if not self.episodes.keeps_events:
            return Record(run, step, state, ended, result.version, result.train_step, answer, b"", "", sums)
        event = self.event(result)
        place = self.episodes.writer.place if event and self.episodes.writer is not None else ""
        return Record(run, step, state, ended, result.version, result.train_step, answer, event, place, sums)

    def event(self, result: Result) -> bytes:
        """Returns what is recorded of the step; b"" where that is nothing."""
        writer = self.episodes.writer
        if writer is None or not self.run.recorded:
            return b""
        return writer.event(self.fields["step"], self.options, self.pending.job, result)

    def record_result(self, result: Result, after: Record) -> None:
        """Records the step, which is stored now, of a session in memory: as `event` and `record` do."""
        writer, run = self.episodes.writer, self.run
        if after.sums is not None:
            self.episodes.counting.count(after, self.pending.job)
        if writer is not None and run.recorded:
            writer.record(self.id, run, self.fields["step"], self.options, self.pending.job, result)

    def record(self, event: bytes, after: Record) -> None:
        """Records the step, which is stored now. `event`: of the step; `after`: its record."""
        writer, run, before = self.episodes.writer, self.run, self.before
        if after.sums is not None:
            self.episodes.counting.count(after, self.pending.job)
        if writer is None or not run.recorded:
            return
        if before is not None and before.event:
            writer.write_before(before, self.id, run)
        writer.write(event, self.id, run, after.version)

    def _body(self, result: Result, codec: Codec) -> bytes:
        template, batched = self.pending.template, self.pending.batched
        if codec is JSON:
            return self.head + template.json(result, batched)[1:]
        return codec.encode(self.fields | template.structure(result, batched))


def is_repeated(record: Record, request: StepRequest) -> bool:
    """Returns whether a request asks for the last step of a session once more, and not for the next one.

    Raises:
      SessionConflict: it asks for neither, or is that of another run.
      DoesNotFit: it has other rows than the session started with.
    """
    run, inputs = record.run, request.inputs
    if request.run_id is not None and request.run_id != run.run_id:
        raise SessionConflict(f"the session is that of another run: {run.run_id!r}", record.step)
    if request.step is not None and request.step != record.step + 1:
        if request.step == record.step:
            return True
        text = f"the session's last step is {record.step}; the request's is {request.step}"
        raise SessionConflict(text, record.step)
    if inputs.rows != run.rows or inputs.batched is not run.batched:
        expected = f"{_shape(run.rows, run.batched)}, as the session started with"
        raise DoesNotFit([Problem("observation", _shape(inputs.rows, inputs.batched), expected)])
    return False


def _resets(record: Record, first: Array | None, given: Array | None) -> tuple[Array, Array | None]:
    """[rows] step types, and which rows start a new episode; None where none does."""
    if given is not None:
        if first is not None and (given[first] != FIRST).any():
            raise DoesNotFit([Problem("step_type", "is not FIRST in a row that `first` names", "0 there")])
        return given, given == FIRST if _has(given, FIRST) else None
    resets = record.ended if first is None else first if record.ended is None else first | record.ended
    if resets is None or not resets.any():
        return _constant(record.run.rows, MID), None
    return np.where(resets, FIRST, MID).astype(np.int32), resets


def _has(step_types: Array, step_type: int) -> bool:
    """Returns whether one of them is that; of few, in a third of NumPy's time."""
    if len(step_types) <= _FEW:
        return step_type in step_types.tolist()
    return bool((step_types == step_type).any())


@functools.lru_cache(maxsize=256)
def _constant(rows: int, step_type: int) -> Array:
    array = np.full(rows, step_type, np.int32)
    array.flags.writeable = False  # it serves many requests
    return array


def _names(spec: PolicySpec) -> tuple[str, list[tuple[str, str]]]:
    """The name of the step type, and those of each part of the policy state: as an input, and as an output."""
    if not spec.takes_time_step or not isinstance(spec.inputs, dict):
        return "", []
    ((_, step_type),) = leaves(spec.inputs["step_type"])
    inputs = {path: leaf.name for path, leaf in _state_inputs(spec)}
    return step_type.name, [(inputs[path], leaf.name) for path, leaf in leaves(spec.state) if path in inputs]


def _state_inputs(spec: PolicySpec) -> list[tuple[str, Leaf]]:
    return list(leaves(spec.inputs.get(STATE, ()))) if isinstance(spec.inputs, dict) else []


def _identity(spec: PolicySpec) -> str:
    """The same for policies that take the same inputs, the policy state among them."""
    return hashlib.sha256(json.dumps(nest_to_json(spec.inputs), sort_keys=True).encode()).hexdigest()[:16]


def _shape(rows: int, batched: bool) -> str:
    return f"a batch of {rows} rows" if batched else "a single value"
