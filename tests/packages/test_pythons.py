"""The client in every Python and beside every library that it is said to work with: `make test-packages`."""

import json
from pathlib import Path

import pytest

from tests.packages.building import Environment, Environments
from tests.packages.test_packages import EPISODE, check_episode
from tests.support.server import RunningServer

VECTOR = Path(__file__).with_name("vector.py")
# The Python, and what else is asked for; the oldest of everything, and the newest.
NUMPY_1, NUMPY_2 = "numpy<2", "numpy>=2"
OLDEST = ("httpx==0.28.0", "msgspec==0.19.0", "numpy==1.26.0")
WITH = [
    ("3.9", OLDEST),
    ("3.9", (NUMPY_2,)),
    ("3.10", (NUMPY_1,)),
    ("3.10", (NUMPY_2,)),
    ("3.11", (NUMPY_1,)),
    ("3.11", (NUMPY_2,)),
    ("3.12", OLDEST),
    ("3.12", (NUMPY_2,)),
    ("3.13", (NUMPY_2,)),
    ("3.14", (NUMPY_2,)),
]
GYMNASIUMS = [("3.9", ("gymnasium==1.1.0",)), ("3.10", ()), ("3.13", ()), ("3.14", ())]


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--packages"):
        pytest.skip("only with --packages, see the Makefile")


def made(environments: Environments, python: str, extra: str = "", more: tuple[str, ...] = ()) -> Environment:
    try:
        return environments.having("client", python, extra, more)
    except LookupError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("python", "more"), WITH)
def test_the_client_plays(environments: Environments, server: RunningServer, python: str, more: tuple[str]) -> None:
    simulator = made(environments, python, more=more)
    seen = json.loads(simulator.printed("python", EPISODE, server.url, PYTHONWARNINGS="error"))
    assert seen.pop("file").startswith(str(simulator.home))
    assert seen["numpy"].startswith("2." if NUMPY_2 in more else "1.26.")
    check_episode(seen, server)


@pytest.mark.parametrize(("python", "more"), GYMNASIUMS)
def test_gymnasiums_vectors_play(
    environments: Environments, server: RunningServer, python: str, more: tuple[str, ...]
) -> None:
    simulator = made(environments, python, "gymnasium", more)
    seen = json.loads(simulator.printed("python", VECTOR, server.url))
    assert seen["gymnasium"].startswith("1.")
    assert all(ended > 3 for ended in seen["ended"])


def test_a_gymnasium_that_is_too_old_is_not_taken(environments: Environments) -> None:
    with pytest.raises(AssertionError, match="gymnasium"):
        environments.having("client", extra="gymnasium", more=("gymnasium<1.1",))
