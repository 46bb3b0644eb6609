"""The whole story in order: build, export, serve, play and learn, judge, report."""

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.chart import draw
from demo.client import POLICY, Client
from demo.interrupts import Interrupts
from demo.judge import judge
from demo.ledger import Ledger
from demo.quiet import quiet
from demo.records import DemoError, Plan, Result, Verdict
from demo.screen import Screen
from demo.server import Server
from demo.simulators import Simulators

if TYPE_CHECKING:
    from demo.publisher import Publisher
    from demo.trainer import Trainer

_MARK = ".made-by-the-demo"


@dataclass(frozen=True)
class Options:
    """What the command line says. `port` 0 takes a free one."""

    runs_dir: Path
    seed: int
    port: int
    chart: Path


def run(plan: Plan, options: Options, screen: Screen, ledger: Ledger, interrupts: Interrupts) -> Result:
    """The demo from start to end. Raises DemoError when it cannot go on."""
    began = time.monotonic()
    prepare_folder(options.runs_dir)
    with quiet(options.runs_dir / "demo.log"):
        verdicts = _act_out(plan, options, screen, ledger, interrupts)
        result = _conclude(plan, options.seed, ledger, verdicts, time.monotonic() - began)
        (options.runs_dir / "result.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
        draw(result, options.chart)
    return result


def _act_out(
    plan: Plan, options: Options, screen: Screen, ledger: Ledger, interrupts: Interrupts
) -> tuple[Verdict, ...]:
    """Everything that runs: the agent, the server, the simulators, and the judgement."""
    screen.stage("building a TF-Agents PPO agent and exporting its collect policy")
    policy = options.runs_dir / POLICY
    with interrupts.held():
        from demo.publisher import Publisher  # TensorFlow takes seconds: after the first words
        from demo.trainer import Recipe, Trainer

        trainer = Trainer(options.seed, Recipe())
        trainer.prepare()
        publisher = Publisher(trainer, policy)
        publisher.export()
    screen.stage("starting the server: python -m app serve")
    with Server(policy, options.port, options.runs_dir / "server.log") as server:
        screen.stage(f"{plan.simulators} simulators play through {server.address}")
        with Simulators(plan, server.address, options.seed, ledger, server.check) as simulators:
            names = _play_and_learn(plan, trainer, publisher, simulators, ledger, screen)
        ledger.end()
        screen.stage(f"judging the last {plan.judged_versions} versions, each one pinned")
        with Client(server.address, server.admin_token) as client:
            verdicts = tuple(
                judge(client, name, plan.episodes_per_judged_version, options.seed, ledger)
                for name in names[-plan.judged_versions :]
            )
        screen.stage("stopping the server")
    screen.stage("done")
    return verdicts


def prepare_folder(folder: Path) -> None:
    """Make the folder for a run, empty. Only a folder that the demo made before is emptied."""
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
    ledger: Ledger,
    screen: Screen,
) -> list[str]:
    """Rounds of: take what was played, learn from it, publish. Returns the versions published.

    A segment may come from the version that serves now or the one before it: simulators go on
    while the trainer learns. PPO weighs each transition by the distribution that it was drawn
    from, which the service answered along with the action.
    """
    names: list[str] = []
    previous = current = 0
    ledger.begin()
    for turn in range(plan.rounds_at_most):
        segments = simulators.take(plan.segments_per_round, oldest_train_step=previous)
        trainer.learn(segments, progress=turn / plan.rounds_at_most)
        if names:
            simulators.wait_for(names[-1])  # so that each version has served before the next
            screen.round(ledger.figures(), names[-1])
        publication = publisher.publish()
        ledger.published(publication)
        names.append(publication.name)
        previous, current = current, publication.train_step
        recent = ledger.recent_mean(plan.episodes_to_stop)
        if turn + 1 >= plan.rounds_at_least and recent and recent >= plan.enough_return:
            break
    simulators.take(plan.segments_per_round, oldest_train_step=current)  # the last one plays too
    screen.round(ledger.figures(), names[-1])
    return names


def _conclude(plan: Plan, seed: int, ledger: Ledger, verdicts: tuple[Verdict, ...], wall_seconds: float) -> Result:
    """Whether it succeeded, with the figures that say so."""
    figures = ledger.figures()
    returns = [one for verdict in verdicts for one in verdict.returns]
    mean = sum(returns) / len(returns)
    reasons = []
    if figures.failures:
        reasons.append(f"{figures.failures} requests failed: {'; '.join(figures.first_failures)}")
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
        verdicts=verdicts,
        judged_mean_return=mean,
        curve=ledger.curve(),
    )
