import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.control.memory_use import memory_limit, record_memory
from app.metrics import Metrics

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_limit_is_the_containers_where_it_is_below_what_the_machine_has(tmp_path: Path) -> None:
    limits = {"some": str(2**30), "none": "max\n", "of version 1": str(2**63 - 4096)}
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    assert memory_limit([str(tmp_path / "missing"), str(tmp_path / "some")]) == min(2**30, MACHINE)
    assert memory_limit([str(tmp_path / "none"), str(tmp_path / "of version 1")]) == MACHINE
    assert 0 < memory_limit() <= MACHINE


@pytest.mark.anyio
async def test_processes_of_a_kind_are_added_up() -> None:
    metrics, here = Metrics(), SimpleNamespace(pid=os.getpid())
    kept: Any = {"builder": [SimpleNamespace(pid=None)], "worker": [here, here]}
    recording = asyncio.create_task(record_memory(metrics, kept))
    await asyncio.sleep(0)
    recording.cancel()
    found = {labels["process"]: value for labels, _, value in metrics.samples("resident_memory_bytes")}
    assert found == metrics.resident_bytes  # which the console shows
    assert found["builder"] == 0
    assert found["worker"] == pytest.approx(2 * found["control"], rel=0.2)
