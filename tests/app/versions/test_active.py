"""Which version serves, which ones stay beside it, and which engines are given back."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import Bundle
from app.versions.active import LoadedVersions

pytestmark = pytest.mark.anyio
GRAPH: Any = None


class Loader:
    """Engines are the digests of their bundles."""

    def __init__(self) -> None:
        self.given_back: list[Any] = []

    def load(self, _: Any, bundle: Bundle) -> Any:
        return bundle.digest

    def stand_by(self, graph: Any, bundle: Bundle) -> None: ...

    def give_back(self, engine: Any) -> None:
        self.given_back.append(engine)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def needed() -> set[str]:
    """The digests that sessions need."""
    return set()


@pytest.fixture
def versions(loader: Loader, needed: set[str]) -> Iterator[LoadedVersions]:
    """At most two are retained."""
    with ThreadPoolExecutor(1) as executor:
        yield LoadedVersions(loader, executor, needed.__contains__, 2)


async def serve(versions: LoadedVersions, *digests: str) -> None:
    for digest in digests:
        await versions.prepare(GRAPH, Bundle(Path(), "graph", digest, 1, "fake", "", {}))
        versions.activate(f"version {digest}", digest)


async def test_what_is_not_needed_is_given_back(versions: LoadedVersions, loader: Loader) -> None:
    await serve(versions, "a", "b")
    assert (versions.active.engine, versions.retained, loader.given_back) == ("b", set(), ["a"])
    assert versions.find("a") is None


async def test_what_is_needed_stays_until_it_is_forgotten(
    versions: LoadedVersions, loader: Loader, needed: set[str]
) -> None:
    needed.add("a")
    await serve(versions, "a")
    loaded = versions.active
    await serve(versions, "b", "c")
    assert (versions.retained, loader.given_back) == ({"a"}, ["b"])
    assert versions.find("a") is loaded
    assert not loaded.retired
    versions.forget("a")
    assert loaded.retired
    assert (versions.retained, loader.given_back) == (set(), ["b", "a"])


async def test_no_more_stay_than_may_however_many_are_needed(
    versions: LoadedVersions, loader: Loader, needed: set[str]
) -> None:
    needed |= set("abcdef")
    await serve(versions, *"abcdef")
    assert (versions.retained, loader.given_back) == (set("de"), list("abc"))


async def test_a_retained_version_that_serves_again_is_the_same_one(
    versions: LoadedVersions, loader: Loader, needed: set[str]
) -> None:
    needed.add("a")
    await serve(versions, "a")
    loaded = versions.active
    await serve(versions, "b", "a", "c")
    assert versions.find("a") is loaded
    assert not loaded.retired
    assert loader.given_back == ["a", "b"]  # the second copy of a, before b


async def test_the_same_weights_under_another_name_go_on_in_the_same_engine(
    versions: LoadedVersions, loader: Loader
) -> None:
    await serve(versions, "a")
    loaded = versions.active
    await versions.prepare(GRAPH, Bundle(Path(), "graph", "a", 1, "fake", "", {}))
    versions.activate("another name", "a")
    assert versions.active is loaded
    assert versions.active.version.name == "another name"
    assert loader.given_back == ["a"]


async def test_an_engine_is_given_back_only_when_no_batch_runs_on_it(
    versions: LoadedVersions, loader: Loader, needed: set[str]
) -> None:
    needed.add("a")
    await serve(versions, "a")
    loaded = versions.active
    await serve(versions, "b")
    loaded.acquire()
    versions.forget("a")
    assert loader.given_back == []
    loaded.release()
    await versions.drained()
    assert loader.given_back == ["a"]
