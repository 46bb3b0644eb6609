"""Recorded sessions of a real server, answered again: to the last bit, and by other weights as computed by hand."""

import io
import shutil
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from app.__main__ import main
from app.engine.noise import seeded_noise
from app.errors import UnusablePolicy
from app.replay.replay import Replay, run
from app.replay.report import Report
from saver.artifact import Noise, PolicySpec, read_policy_manifest
from tests.support.recorded import Simulator, Trainer, together
from tests.support.segments import write
from tests.support.server import serving

OPTIONS = {
    "greedy": {"mode": "greedy"},
    "seeded": {"seed": 7, "log_prob": True},
    "sampled": {"mode": "sample", "log_prob": True},
}
# What is recorded of each policy; all of "nested" and "recurrent" is greedy, and continuous with a state.
KINDS = {
    "boltzmann": ("greedy", "seeded", "sampled"),
    "continuous": ("greedy", "seeded", "sampled"),
    "recurrent": ("greedy",),
    "nested": ("greedy",),
}
STEPS, PIECES, ROWS = 10, 3, (None, 3, 20)
# Pairs of a step with the next one.
PAIRS = PIECES * STEPS - 1


@dataclass
class Recorded:
    """A folder of experience, and what the simulators noted themselves."""

    folder: Path
    trainers: dict[str, Trainer]
    specs: dict[str, PolicySpec]
    rows: dict[str, dict[str, list[Any]]]

    def again(self, policy: str, **more: Any) -> Report:
        return run(Replay(self.trainers[policy].folder, self.folder, **more))

    def noted(self, policy: str, **wanted: Any) -> dict[str, np.ndarray]:
        """The rows whose columns have these values."""
        columns = {name: np.array(values) for name, values in self.rows[policy].items()}
        chosen = np.all([columns[name] == value for name, value in wanted.items()], axis=0)
        return {name: array[chosen] for name, array in columns.items()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Simulators alone and in batches, over episodes and two swaps in the midst of them."""
    place = tmp_path_factory.mktemp("policies")
    trainers = {name: Trainer(name, place / name) for name in KINDS}
    manifests = [read_policy_manifest(trainer.folder) for trainer in trainers.values()]
    specs = {name: manifest.spec for name, manifest in zip(KINDS, manifests, strict=True) if manifest}
    folders, kept = {name: trainer.folder for name, trainer in trainers.items()}, place / "experience"
    options = ("--no-watch", "--experience-dir", str(kept), "--experience-segment-bytes", "65536")
    with serving(folders, *options) as server:
        simulators: dict[str, list[Simulator]] = {
            name: [
                Simulator(server, name, specs[name], f"{kind}-{rows}", rows, **OPTIONS[kind])
                for kind in kinds
                for rows in ROWS
            ]
            for name, kinds in KINDS.items()
        }
        for piece in range(PIECES):
            for name, trainer in trainers.items() if piece else ():
                server.reload(name, checkpoint=trainer.publish(100 * piece)).raise_for_status()
            for step in range(STEPS):
                for found in simulators.values():
                    for number, simulator in enumerate(found):
                        simulator.step(last=(step + number) % 7 == 6)
    rows = {name: together(found) for name, found in simulators.items()}
    return Recorded(kept, trainers, specs, rows)


def shown(report: Report) -> str:
    out = io.StringIO()
    report.print(Console(file=out, width=200, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("policy", KINDS)
def test_greedy_and_seeded_rows_are_answered_again_to_the_last_bit(recorded: Recorded, policy: str) -> None:
    report = recorded.again(policy)
    total = report.total
    each = PAIRS * sum(rows or 1 for rows in ROWS)
    kinds = KINDS[policy]
    assert (total.greedy, total.seeded, total.sampled) == tuple(each * (kind in kinds) for kind in OPTIONS)
    assert (total.equal, total.agree, report.differing) == (total.compared,) * 2 + (0,)
    findings = report.findings
    assert (findings.gone.total(), findings.unknown_state, findings.refused) == (0, 0, 0)
    assert [name for name, *_ in findings.by_version] == ["export", "0000000100", "0000000200"]
    if "sampled" in kinds:
        assert total.log_prob_apart.count == each
        assert total.log_prob_apart.largest < 1e-4
    text = shown(report)
    assert "answered again by the versions that answered then" in text
    assert f"{each * len(kinds):,} rows of {sum(rows or 1 for rows in ROWS) * len(kinds)} environments" in text


def values_of(trainer: Trainer, train_step: int, observations: np.ndarray) -> np.ndarray:
    """What the Q-network of "boltzmann" gives for each action: by NumPy, from the weights of a train step."""
    trainer.take(train_step)
    first, first_bias, second, second_bias = (variable.numpy() for variable in trainer.policy.variables())
    return np.maximum(observations @ first + first_bias, 0) @ second + second_bias


def test_agreement_and_divergence_on_other_weights_are_those_computed_by_hand(recorded: Recorded) -> None:
    report = recorded.again("boltzmann", checkpoint="0000000200", picture=recorded.folder / "p.svg")
    trainer = recorded.trainers["boltzmann"]
    for version, train_step in (("export", 0), ("0000000100", 100), ("0000000200", 200)):
        totals = report.findings.by_version[version, train_step, train_step == 200]
        greedy, seeded, sampled = (
            recorded.noted("boltzmann", version=version, mode=mode, seed=seed)
            for mode, seed in (("greedy", -1), ("sample", 7), ("sample", -1))
        )
        now = [values_of(trainer, 200, rows["observation"]) for rows in (greedy, seeded, sampled)]
        gumbel = np.array(
            [
                -np.log(-np.log(seeded_noise(Noise(2, 0), row + 1, 7, step)["noise/uniform"][row]))
                for step, row in zip(seeded["step"].tolist(), seeded["row"].tolist(), strict=True)
            ]
        )
        agree = np.concatenate(
            [now[0].argmax(axis=1) == greedy["action"], (now[1] + gumbel).argmax(axis=1) == seeded["action"]]
        )
        assert (totals.compared, totals.agree) == (len(agree), agree.sum())
        assert totals.sampled == len(sampled["step"])
        log_p = now[2] - np.log(np.exp(now[2]).sum(axis=1, keepdims=True))
        chosen = np.take_along_axis(log_p, sampled["action"][:, None], axis=1)
        assert totals.log_prob.mean == pytest.approx(chosen.mean(), abs=1e-4)
        if train_step == 200:
            assert (totals.equal, totals.divergence.count) == (len(agree), 0)
            continue
        assert 0 < totals.agree < totals.compared
        then = [values_of(trainer, train_step, rows["observation"]) for rows in (greedy, seeded, sampled)]
        apart = [
            p - np.log(np.exp(p).sum(axis=1, keepdims=True)) - q + np.log(np.exp(q).sum(axis=1, keepdims=True))
            for p, q in zip(then, now, strict=True)
        ]
        divergence = np.concatenate(
            [
                (np.exp(p) / np.exp(p).sum(axis=1, keepdims=True) * log).sum(axis=1)
                for p, log in zip(then, apart, strict=True)
            ]
        )
        assert totals.divergence.count == len(divergence)
        assert totals.divergence.mean == pytest.approx(divergence.mean(), rel=1e-4)
        assert totals.divergence.largest == pytest.approx(divergence.max(), rel=1e-4)
    text = shown(report)
    assert "answered again by version 0000000200 (train step 200)" in text
    assert "0000000200 (the same)" in text
    assert f"{100 * report.total.agreement:.2f} %" in text
    picture = ET.parse(recorded.folder / "p.svg").getroot()
    words = [element.text or "" for element in picture.iter() if element.tag.endswith("text")]
    assert f"agreement {100 * report.total.agreement:.2f} %" in words[0]
    (joint,) = report.findings.joints.found or []
    assert {f"{count:,}" for count in joint.counts.reshape(-1).tolist() if count} <= set(words)
    assert joint.counts.sum() == report.total.compared


def test_continuous_actions_agree_within_the_tolerance_and_the_largest_difference_is_said(recorded: Recorded) -> None:
    """The mean of "continuous" by the policy in this process, with the weights of then and of now."""
    trainer = recorded.trainers["continuous"]
    rows = recorded.noted("continuous", version="0000000100", mode="greedy")
    trainer.take(200)
    weights = [variable.numpy() for variable in trainer.policy.variables()]
    hidden, bias, means, means_bias = (
        next(w for w in weights if w.shape == shape) for shape in ((4, 8), (8,), (8, 2), (2,))
    )
    now = np.tanh(np.maximum(rows["observation"] @ hidden + bias, 0) @ means + means_bias) * [1.0, 2.0]
    apart = np.abs(now - rows["action"]).max(axis=1)
    tolerance = float(np.median(apart))
    report = recorded.again("continuous", checkpoint="0000000200", tolerance=tolerance * 1.0001)
    totals = report.findings.by_version["0000000100", 100, False]
    assert totals.largest >= apart.max() - 1e-4
    assert totals.greedy == len(apart)
    assert report.findings.joints.found is not None
    assert [joint.name for joint in report.findings.joints.found] == ["action[0]", "action[1]"]
    assert totals.divergence.count == totals.rows


def test_versions_that_are_gone_are_counted_and_left_out(recorded: Recorded, tmp_path: Path) -> None:
    folder = tmp_path / "boltzmann"
    shutil.copytree(recorded.trainers["boltzmann"].folder, folder)
    shutil.rmtree(folder / "checkpoints" / "0000000100")
    report = run(Replay(folder, recorded.folder))
    gone = len(recorded.noted("boltzmann", version="0000000100")["step"])
    assert report.findings.gone == {"0000000100": gone}
    assert report.total.rows == len(recorded.rows["boltzmann"]["step"]) - gone
    assert f"left out: {gone:,} of versions that are gone: 0000000100" in shown(report)
    with pytest.raises(UnusablePolicy, match="no checkpoint '0000000100'; the newest are: 0000000200"):
        run(Replay(folder, recorded.folder, checkpoint="0000000100"))


def test_an_episode_that_is_recorded_from_its_midst_is_left_out_where_the_policy_has_a_state(
    recorded: Recorded, tmp_path: Path
) -> None:
    columns = recorded.rows["recurrent"]
    late = [place for place, step in enumerate(columns["step"]) if step >= 2]
    rows = {name: [values[place] for place in late] for name, values in columns.items()}
    write(tmp_path / "recurrent", recorded.specs["recurrent"], rows)
    report = run(Replay(recorded.trainers["recurrent"].folder, tmp_path))
    firsts = {key: min(step for step, kind in found if kind == 0) for key, found in by_environment(rows).items()}
    unknown = sum(step < firsts[key] for key, found in by_environment(rows).items() for step, _ in found)
    assert report.findings.unknown_state == unknown > 0
    assert report.total.equal == report.total.rows == len(late) - unknown
    assert "of which the policy state before is not known" in shown(report)


def by_environment(rows: dict[str, list[Any]]) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """The steps of each, with their types."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for session, row, step, kind in zip(*(rows[name] for name in ("session", "row", "step", "step_type")), strict=True):
        found.setdefault((session, row), []).append((step, int(kind)))
    return found


def test_the_command_ends_with_one_line_where_it_cannot(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded.trainers["boltzmann"].folder
    damaged = tmp_path / "damaged" / "boltzmann"
    damaged.mkdir(parents=True)
    (damaged / "0000000000000000.parquet").write_bytes(b"PAR1 is not enough")
    calls: dict[tuple[str, ...], str] = {
        (str(tmp_path), "--experience", str(recorded.folder)): "saved_model.pb is missing",
        (str(folder), "--experience", str(tmp_path / "none")): "cannot be read: No such file",
        (str(folder), "--experience", str(tmp_path / "damaged")): "0000000000000000.parquet is damaged",
        (
            str(folder),
            "--experience",
            str(recorded.folder),
            "--policy",
            "x",
        ): "there are: boltzmann, continuous, nested",
        (str(folder), "--experience", str(recorded.folder), "--policy", "nested"): "was recorded of another policy",
        (str(folder), "--experience", str(recorded.folder), "--checkpoint", "x"): "no checkpoint 'x'",
        (str(folder), "--experience", str(recorded.folder), "--picture", "p.png"): "expected a name with .svg",
        (str(folder), "--experience", str(recorded.folder), "--tolerance", "nan"): "the tolerance is nan",
    }
    for arguments, expected in calls.items():
        assert main(["replay", *arguments]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert expected in line


def test_rows_that_the_version_of_then_answers_otherwise_end_with_1(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {name: list(values) for name, values in recorded.rows["boltzmann"].items()}
    greedy = [place for place, mode in enumerate(rows["mode"]) if mode == "greedy"]
    for place in greedy[:3]:
        rows["action"][place] = 1 - rows["action"][place]
    write(tmp_path / "boltzmann", recorded.specs["boltzmann"], rows)
    folder = str(recorded.trainers["boltzmann"].folder)
    assert main(["replay", folder, "--experience", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "policy server: 3 rows are answered otherwise by the version that answered then"
    ]
    assert "largest difference" in printed.out
