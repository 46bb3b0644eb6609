"""A server whose hot modules are compiled answers as the one whose source they are, byte for byte."""

import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.wire import msgpack_body
from tests.integration.inference.test_fast_path import GOOD_ONES, UNFIT_ONES
from tests.support import policies, processes
from tests.support.server import ROOT, RunningServer, serving

TREE = ROOT / ".compiled"
MSGPACK = {"Content-Type": "application/msgpack"}
MANY = [[0.1 * number, -0.2, 0.3, 0.01 * number] for number in range(64)]

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.fixture(scope="module")
def compiled(exports: Path) -> Iterator[RunningServer]:
    # The environment stays as it is, even where the lock is newer: this process runs in it.
    kept = [
        word
        for file in (".venv/.installed", ".venv/lib/python3.11/site-packages/checkout.pth")
        for word in ("-o", file)
    ]
    subprocess.run(["make", *kept, "compiled"], cwd=ROOT, check=True, capture_output=True, timeout=900)
    with serving({name: exports / name for name in policies.MAKERS}, tree=TREE, prepared=True) as running:
        yield running


def test_each_worker_runs_what_was_compiled(compiled: RunningServer) -> None:
    (worker,) = compiled.processes("app.worker")
    assert f"{TREE}/policy_server__mypyc.cpython" in processes.read(worker, "maps")


@pytest.mark.parametrize("module", runpy.run_path(str(ROOT / "setup.py"))["COMPILED"])
def test_a_module_is_compiled(compiled: RunningServer, module: str) -> None:
    source = ROOT / module
    (built,) = (TREE / module).parent.glob(f"{source.stem}.cpython-*.so")
    assert built.stat().st_mtime > source.stat().st_mtime


@pytest.mark.parametrize(
    ("policy", "function", "body"), [*GOOD_ONES, *UNFIT_ONES, ("cartpole", "action", {"observation": MANY})]
)
def test_answers_are_the_same(
    compiled: RunningServer, server: RunningServer, policy: str, function: str, body: dict
) -> None:
    path = f"/v1/policies/{policy}/{function}"
    for _ in range(3):  # the second and the third have a known head and a known skeleton
        found, expected = (one.http.post(path, json=body) for one in (compiled, server))
        assert (found.status_code, found.content) == (expected.status_code, expected.content)
    try:
        packed = msgpack_body.encode(body)
    except OverflowError:  # JSON alone has integers of any size
        return
    found, expected = (one.http.post(path, content=packed, headers=MSGPACK) for one in (compiled, server))
    assert (found.status_code, found.content) == (expected.status_code, expected.content)
