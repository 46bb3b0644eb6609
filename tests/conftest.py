"""Shared by all tests: the environment for TensorFlow, the --full counts, and servers over real exports."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.support import fast, shared
from tests.support.fast import pytest_ignore_collect  # noqa: F401 — pytest calls it
from tests.support.server import RunningServer, serving

if TYPE_CHECKING:
    from tests.support.saver_policies import Saved

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# No test may depend on what else stands in the environment: settings of a server, terminals, make, a proxy.
for name in list(os.environ):
    if name.startswith("POLICY_SERVER_") or name in ("COLUMNS", "FORCE_COLOR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        del os.environ[name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
# Where Python may not keep what it has compiled, each server's processes compile all of `app` again: 0.3 s of a core.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the counts that acceptance lists ask for")
    parser.addoption("--packages", action="store_true", help="install the packages in every Python that there is")
    parser.addoption("--fast", action="store_true", help="what needs neither TensorFlow nor a server")
    parser.addoption("--trainers", help="folder of trainers' environments (tests/trainers/environments.py)")


def pytest_configure(config: pytest.Config) -> None:
    shared.begin(config)
    if config.getoption("--fast"):
        fast.keep_out()
    config.addinivalue_line("markers", "only_full: one more of a kind, that takes long: with --full alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest comes first and many small files last, so that all processes end at about the same time."""
    if config.getoption("--fast"):
        items[:] = fast.chosen(items)
    if not config.getoption("--full"):
        items[:] = [item for item in items if item.get_closest_marker("only_full") is None]
    folders = ("zoo", "sweep", "integration", "bench", "examples", "packages", "client", "saver")
    order = {folder: number for number, folder in enumerate(folders)} | {"app": len(folders) + 1}
    items.sort(key=lambda item: order.get(item.path.relative_to(item.config.rootpath / "tests").parts[0], len(folders)))


def pytest_collectstart() -> None:
    gc.disable()  # until all is imported: see below


def pytest_collection_finish() -> None:
    """Has the garbage collector leave alone what is imported by now: it took a tenth of the time of tests that trace.

    TensorFlow makes millions of objects that live on, and each full collection looks at all of them again.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


# What uses the same exports of the zoo, or the same server, is kept in one process.
TOGETHER = {
    "tests/zoo/": "zoo",
    "tests/integration/inference/": "server",
    "tests/integration/dialects/test_open": "server",
    "tests/integration/sessions/": "server",
    "tests/integration/console/": "console",
    "tests/integration/experience/test_reading.py": "server",
    "tests/integration/experience/test_live_reading.py": "server",
    "tests/integration/processes/test_start_and_stop.py": "server",
    "tests/integration/processes/test_audit.py": "server",
    "tests/integration/swaps/bad_checkpoints/": "bad checkpoints",
    "tests/integration/processes/test_traces.py": "server",
    "tests/bench/test_frames.py": "bench",
    "tests/bench/test_se": "bench",
    "tests/bench/test_stations.py": "bench",
    "tests/examples/": "server",
    "tests/packages/test_packages.py": "server",
    "tests/client/": "server",
}


class Scheduling(LoadFileScheduling):
    """Keeps each file in one of the processes, and `TOGETHER` what belongs together."""

    def _split_scope(self, nodeid: str) -> str:
        found = [name for place, name in TOGETHER.items() if nodeid.startswith(place)]
        return found[0] if found else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """For `--dist loadfile`."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What `@pytest.mark.anyio` runs coroutines on."""
    return "asyncio"


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to run with full counts."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> "Saved":
    """Exports of every kind of policy in tests/support/saver_policies.py, each made when it is first asked for."""
    from tests.support.saver_policies import Saved  # here, so that the fast tests alone need no TensorFlow

    return Saved(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="session")
def exports() -> Path:
    """A folder with an export of every policy of tests/support/policies.py by name, each made when it is asked for."""
    from tests.support import policies

    return policies.Exports(shared.folder("exports"))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Options of a server that keeps what it compiles for the next one; for one server after the other."""
    return "--state-dir", str(tmp_path_factory.mktemp("warm"))


@pytest.fixture(scope="session")
def server(exports: Path) -> Iterator[RunningServer]:
    """One server with every policy of the zoo; tests may not change its weights. `cartpole` is the default."""
    from tests.support import policies

    with serving({name: exports / name for name in policies.MAKERS}, prepared=True) as running:
        yield running
