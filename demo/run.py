"""A run of the demo in order: build, export, serve, play and learn, evaluate, report."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.testing import serving
from demo.chart import draw
from demo.evaluate import evaluate
from demo.experience import Stream
from demo.interrupts import Interrupts
from demo.messages import POLICY, DemoError, Evaluation, Plan, Recorded, Result
from demo.screen import Screen
from demo.simulators import Simulators
from demo.statistics import Statistics

if TYPE_CHECKING:
    from demo.publisher import Publisher
    from demo.trainer import Trainer

_MARK = ".made-by-the-demo"
# What was answered last is recorded by then.
_LAST_ROWS_S = 10.0


@dataclass(frozen=True)
class Options:
    """What the command line says. `port` 0 takes a free one."""

    runs_dir: Path
    seed: int
    port: int
    chart: Path


def run(plan: Plan, options: Options, screen: Screen, statistics: Statistics, interrupts: Interrupts) -> Result:
    """Runs the demo from start to end. Raises DemoError or ServerFailed when it cannot go on."""
    started = time.monotonic()
    prepare_folder(options.runs_dir)
    with _stderr_in(options.runs_dir / "demo.log"):
        recorded, evaluations = _execute(plan, options, screen, statistics, interrupts)
        result = _conclude(plan, options.seed, statistics, recorded, evaluations, time.monotonic() - started)
        (options.runs_dir / "result.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
        draw(result, options.chart)
    return result


def _execute(
    plan: Plan, options: Options, screen: Screen, statistics: Statistics, interrupts: Interrupts
) -> tuple[Recorded, tuple[Evaluation, ...]]:
    """Everything that runs: the agent, the server, the simulators, and the evaluation."""
    screen.stage("building a TF-Agents PPO agent and exporting its collect policy")
    policy = options.runs_dir / POLICY
    with interrupts.deferred():
        from demo.publisher import Publisher  # TensorFlow takes seconds: after the first words
        from demo.trainer import Hyperparameters, Trainer

        trainer = Trainer(options.seed, Hyperparameters())
        trainer.prepare()
        publisher = Publisher(trainer, policy)
        publisher.export()
    screen.stage("starting the server: python -m app serve")
    log = options.runs_dir / "server.log"
    settings = ("--port", str(options.port), "--experience-dir", str(options.runs_dir / "experience"))
    with serving({POLICY: policy}, *settings, log=log) as server:
        screen.stage(f"{plan.simulators} simulators play; watch the server at {server.url}/console")
        with Stream(server.url) as stream:
            with Simulators(plan, server.url, options.seed, statistics, server.check) as simulators:
                names = _play_and_learn(plan, trainer, publisher, simulators, stream, statistics, screen)
            statistics.end()
            caused = statistics.figures().followed
            stream.wait_for(caused, _LAST_ROWS_S)
        recorded = Recorded(caused, stream.rows, stream.double, stream.missing, stream.unused)
        screen.stage(f"evaluating the last {plan.evaluated_versions} versions, each one pinned")
        evaluations = tuple(
            evaluate(server, name, plan.episodes_per_evaluated_version, options.seed, statistics)
            for name in names[-plan.evaluated_versions :]
        )
        screen.stage("stopping the server")
    screen.stage("done")
    return recorded, evaluations


@contextlib.contextmanager
def _stderr_in(log: Path) -> Iterator[None]:
    """Makes file descriptor 2 the file `log` within the block, for TensorFlow's C++ and for child processes too."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def prepare_folder(folder: Path) -> None:
    """Makes the folder for a run, empty. Only a folder that the demo made before is emptied."""
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise DemoError(f"{folder} has something in it that the demo did not make; name another")
    try:
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise DemoError(f"{folder} cannot be made anew: {error.strerror}") from error


def _play_and_learn(
    plan: Plan,
    trainer: "Trainer",
    publisher: "Publisher",
    simulators: Simulators,
    stream: Stream,
    statistics: Statistics,
    screen: Screen,
) -> list[str]:
    """Rounds of: take what was recorded, learn from it, publish. Returns the versions published.

    A transition may come from the version that serves now or the one before it: simulators go on
    while the trainer learns. PPO weighs each transition by the distribution that it was drawn
    from, which the service answered along with the action.
    """
    names: list[str] = []
    previous = current = 0
    statistics.start()
    for number in range(plan.rounds_at_most):
        transitions = stream.take(plan.transitions_per_round, previous, simulators.check)
        trainer.learn(transitions, progress=number / plan.rounds_at_most)
        if names:
            simulators.wait_for(names[-1])  # so that each version has served before the next
            screen.round(statistics.figures(), names[-1])
        publication = publisher.publish()
        statistics.published(publication)
        names.append(publication.name)
        previous, current = current, publication.train_step
        recent = statistics.recent_mean(plan.episodes_to_stop)
        if number + 1 >= plan.rounds_at_least and recent and recent >= plan.enough_return:
            break
    stream.take(plan.transitions_per_round, current, simulators.check)  # the last one plays too
    screen.round(statistics.figures(), names[-1])
    return names


def _conclude(
    plan: Plan,
    seed: int,
    statistics: Statistics,
    recorded: Recorded,
    evaluations: tuple[Evaluation, ...],
    wall_seconds: float,
) -> Result:
    """Whether it succeeded, with the figures that say so."""
    figures = statistics.figures()
    returns = [one for evaluation in evaluations for one in evaluation.returns]
    mean = sum(returns) / len(returns)
    reasons = []
    if figures.failures:
        reasons.append(f"{figures.failures} requests failed: {'; '.join(figures.first_failures)}")
    if not recorded.is_whole:
        reasons.append(
            f"of {recorded.caused} rows {recorded.read} were read, {recorded.double} of them twice, "
            f"{recorded.missing} never"
        )
    if figures.swaps < plan.required_swaps:
        reasons.append(f"{figures.swaps} swaps during play, {plan.required_swaps} are required")
    if plan.required_return is not None and mean < plan.required_return:
        reasons.append(f"mean return {mean:.1f}, {plan.required_return:.0f} is required")
    return Result(
        succeeded=not reasons,
        reasons=tuple(reasons),
        wall_seconds=wall_seconds,
        seed=seed,
        figures=figures,
        recorded=recorded,
        evaluations=evaluations,
        evaluated_mean_return=mean,
        curve=statistics.curve(),
    )
