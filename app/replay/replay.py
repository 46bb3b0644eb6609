"""`policy-server replay`: a policy's folder and recorded experience → the rows answered again, and a report."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.artifacts.bundle import AUTO
from app.artifacts.export import check_folder
from app.artifacts.series import resolved
from app.artifacts.temporary import emptied, own_folder
from app.errors import SwapRefused, UnknownVersion, UnusablePolicy
from app.settings import PolicyFolder
from saver.stderr import hushed

if TYPE_CHECKING:
    from app.replay.report import Report

# Of continuous actions that agree, in the action's own unit.
TOLERANCE = 0.01
PICTURE_SUFFIX = ".svg"


@dataclass(frozen=True)
class Replay:
    """A call of the command.

    `experience`: the folder that a server records into, `DIR`; `policy`: the name under which it served, of which
    `DIR` has a folder; "" chooses that of the policy's folder, or the only one. `checkpoint`: the version that answers;
    "" lets each row be answered by the version that answered then. `engine`: what ran the policy.
    """

    folder: Path
    experience: Path
    checkpoint: str = ""
    policy: str = ""
    engine: str = AUTO
    tolerance: float = TOLERANCE
    picture: Path | None = None


def run(replay: Replay) -> Report:
    """Answers a policy's recorded rows again; writes the picture, where one is asked for.

    Raises:
      UnusablePolicy: no export, no recording of it, or no version that can answer; the message says what is wrong.
    """
    _check_call(replay)
    check_folder(resolved(PolicyFolder(replay.folder.name, replay.folder)).folder)
    recorded = recorded_folder(replay)
    with hushed():  # here and not at the top: a mistyped folder is reported without TensorFlow
        from app.replay.answering import Answering
        from app.replay.picture import picture_of
        from app.replay.report import Report
        from app.replay.segments import Recording
        from app.replay.versions import Versions
    with own_folder("policy-server-replay.") as own:
        versions = Versions(replay.folder, emptied(own / "made"), replay.engine)
        spec = versions.graph.spec
        if not spec.takes_time_step:
            raise UnusablePolicy(f"{replay.folder} takes no time steps (input_fn_and_spec): it has no sessions")
        recording = Recording(recorded, spec)
        try:
            fixed = versions.named(replay.checkpoint) if replay.checkpoint else None
        except (SwapRefused, UnknownVersion) as refusal:
            raise UnusablePolicy(str(refusal)) from None
        answering = Answering(versions, fixed, recording.rows, replay.tolerance)
        for piece in recording.pieces():
            answering.add(piece)
    findings = answering.findings
    if not findings.answered:
        raise UnusablePolicy(_why_nothing(recorded, recording.rows, answering.findings.gone))
    report = Report(
        policy=recorded.name,
        rows=recording.rows,
        environments=recording.environments,
        answers=(fixed.name, fixed.train_step) if fixed is not None else None,
        tolerance=replay.tolerance,
        no_divergence=answering.distributions.reason,
        findings=findings,
    )
    if replay.picture is not None:
        _write(replay.picture, picture_of(report))
    return report


def recorded_folder(replay: Replay) -> Path:
    """Returns the folder of the policy's rows.

    Raises:
      UnusablePolicy: there is none, or it is not clear which.
    """
    try:
        there = sorted(path.name for path in replay.experience.iterdir() if path.is_dir())
    except OSError as error:
        raise UnusablePolicy(f"{replay.experience} cannot be read: {error.strerror}") from None
    wanted = replay.policy or replay.folder.name
    if wanted in there:
        return replay.experience / wanted
    if not replay.policy and len(there) == 1:
        return replay.experience / there[0]
    listed = ", ".join(there) or "none"
    hint = "" if replay.policy else "; --policy names another one"
    raise UnusablePolicy(f"{replay.experience} has no rows of a policy {wanted}{hint}; there are: {listed}")


def _check_call(replay: Replay) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise UnusablePolicy("replay needs the extra experience: pip install 'policy-server[experience]'")
    if replay.picture is not None and replay.picture.suffix != PICTURE_SUFFIX:
        raise UnusablePolicy(f"the picture {replay.picture} cannot be written: expected a name with {PICTURE_SUFFIX}")
    if not replay.tolerance >= 0:
        raise UnusablePolicy(f"the tolerance is {replay.tolerance:g}: expected 0 or more")


def _why_nothing(folder: Path, rows: int, gone: dict[str, int]) -> str:
    if gone:
        names = ", ".join(list(gone)[:5])
        return f"{folder}: none of its {rows:,} rows can be answered again: the versions are gone ({names})"
    return f"{folder}: none of its {rows:,} rows can be answered again: the episodes' starts are not recorded"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UnusablePolicy(f"the picture {path} cannot be written: {error.strerror}") from None
