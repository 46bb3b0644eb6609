import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Histogram
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from app import tasks
from app.metric_files import join_ended
from app.metric_table import METRICS, PREFIX
from app.metrics import Metrics

CONFIGURATION = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def test_the_docs_list_the_table_word_for_word() -> None:
    page = CONFIGURATION.read_text().split("## Metrics")[1]
    listed = re.findall(r"^\| `(policy_server_\w+)` \| (\w+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    table = [(m.full_name, m.kind.__name__.lower(), ", ".join(m.labels), m.help) for m in METRICS]
    assert [tuple(text.replace("`", "") for text in row) for row in listed] == table


def test_every_row_of_the_table_is_collected_with_its_help() -> None:
    collected = {family.name: family.documentation for family in Metrics().registry.collect()}
    assert collected == {PREFIX + metric.name: metric.help for metric in METRICS}


def test_buckets_are_given_for_histograms_alone_and_rise() -> None:
    for metric in METRICS:
        assert bool(metric.buckets) is (metric.kind is Histogram)
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_counts_reach_the_text_with_their_labels() -> None:
    metrics = Metrics()
    policy = metrics.policy("p")
    assert metrics.policy("p") is policy
    metrics.data("p", "action").answered(200, 0.001)
    metrics.data("p", "action").answered(422, 0.002)
    metrics.ready("p", True)
    metrics.data("p", "action").refused("does-not-fit-the-spec", 422, 0.5)
    metrics.sessions(3, 100)
    for leased in (True, False, False, True):
        metrics.fleet(2, leased)
    metrics.buffered(1000, 2000, 5000)
    metrics.memory("builder", 7)
    metrics.limits(8, 60)
    metrics.measure_with(lambda: policy.queue(5, 9))
    metrics.restarted("builder")
    policy.batch(3, 0.0001)
    policy.batch(1, None)
    policy.active(700, "litert")
    policy.swapped(0.2)
    policy.stage("loaded", 0.1)
    policy.refused()
    policy.outside_bounds(4)
    policy.unusable_record()
    policy.paused(True)
    lines = metrics.text().decode().splitlines()
    for line in (
        'policy_server_answers_total{policy="p",route="action",status="200"} 1.0',
        'policy_server_answers_total{policy="p",route="action",status="422"} 2.0',
        'policy_server_errors_total{kind="does-not-fit-the-spec",policy="p"} 1.0',
        'policy_server_answer_seconds_bucket{le="0.001",policy="p",route="action"} 1.0',
        'policy_server_answer_seconds_count{policy="p",route="action"} 3.0',
        'policy_server_batch_rows_bucket{le="2.0",policy="p"} 1.0',
        'policy_server_batch_rows_bucket{le="4.0",policy="p"} 2.0',
        'policy_server_engine_seconds_count{policy="p"} 1.0',
        'policy_server_engine{engine="litert",policy="p"} 1.0',
        'policy_server_engine{engine="tensorflow",policy="p"} 0.0',
        'policy_server_queue_requests{policy="p"} 5.0',
        'policy_server_queue_limit_requests{policy="p"} 9.0',
        'policy_server_buffered_bytes{kind="requests"} 1000.0',
        'policy_server_buffered_bytes{kind="answers"} 2000.0',
        "policy_server_buffered_limit_bytes 5000.0",
        'policy_server_resident_memory_bytes{process="builder"} 7.0',
        "policy_server_memory_limit_bytes 8.0",
        "policy_server_checkpoint_expected_seconds 60.0",
        "policy_server_sessions_limit 100.0",
        "policy_server_fleet_members 2.0",
        "policy_server_fleet_lapses_total 1.0",
        'policy_server_train_step{policy="p"} 700.0',
        'policy_server_ready{policy="p"} 1.0',
        'policy_server_paused{policy="p"} 1.0',
        "policy_server_sessions 3.0",
        'policy_server_restarts_total{process="builder"} 1.0',
        'policy_server_swaps_total{policy="p"} 1.0',
        'policy_server_swap_seconds_count{policy="p"} 1.0',
        'policy_server_swap_stage_seconds_count{policy="p",stage="loaded"} 1.0',
        'policy_server_refused_versions_total{policy="p"} 1.0',
        'policy_server_floats_outside_bounds_total{policy="p"} 4.0',
        'policy_server_unusable_records_total{policy="p"} 1.0',
    ):
        assert line in lines


@pytest.mark.anyio
async def test_a_measure_that_fails_is_logged_once_and_the_others_are_flushed_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.metrics.FLUSH_S", 0.0)
    metrics, flushed = Metrics(), asyncio.Event()
    rounds = []

    def failing() -> None:
        raise RuntimeError("dictionary changed size during iteration")

    def other() -> None:
        rounds.append(metrics.sessions(len(rounds), 100))
        if len(rounds) == 3:
            flushed.set()

    metrics.measure_with(failing)
    metrics.measure_with(other)
    flushing = asyncio.create_task(metrics.flush_now_and_then())
    await asyncio.wait([flushing, asyncio.create_task(flushed.wait())], return_when=asyncio.FIRST_COMPLETED)
    assert not flushing.done()
    await tasks.end(flushing)
    assert b"policy_server_sessions " in metrics.text()
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info is not None) == ("metrics cannot be measured", True)


def _file(path: Path, value: float, at: float = 0.0) -> None:
    values = MmapedDict(str(path))
    values.write_value(mmap_key("m", "m", [], [], "help"), value, at)
    values.close()


def _value(path: Path) -> float:
    ((_, value, _, _),) = MmapedDict.read_all_values_from_file(str(path))
    return value


def test_counts_of_ended_processes_are_added_to_one_file_of_each_kind(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    ended, here = process.pid, os.getpid()
    assert process.wait() == 0
    _file(tmp_path / f"counter_{ended}.db", 2)
    _file(tmp_path / "counter_ended.db", 5)
    _file(tmp_path / f"counter_{here}.db", 100)
    _file(tmp_path / f"gauge_mostrecent_{ended}.db", 7, at=20)
    _file(tmp_path / "gauge_mostrecent_ended.db", 8, at=10)
    _file(tmp_path / f"gauge_livesum_{ended}.db", 4)
    _file(tmp_path / f"gauge_livesum_{here}.db", 5)
    join_ended(tmp_path)
    assert {path.name for path in tmp_path.glob("*.db")} == {
        *("counter_ended.db", f"counter_{here}.db", "gauge_mostrecent_ended.db", f"gauge_livesum_{here}.db")
    }
    assert _value(tmp_path / "counter_ended.db") == 7
    assert _value(tmp_path / "gauge_mostrecent_ended.db") == 7
    assert _value(tmp_path / f"counter_{here}.db") == 100
