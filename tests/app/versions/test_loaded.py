"""Which version serves, which ones stay beside it, and which engines are given back."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.artifacts.bundle import Bundle
from app.versions.loaded import LoadedVersions

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


def run(test: Callable[[LoadedVersions, Loader, set[str]], Awaitable[None]], most: int = 2) -> None:
    """With the digests that somebody needs."""

    async def with_copies() -> None:
        loader, needed = Loader(), set[str]()
        with ThreadPoolExecutor(1) as executor:
            await test(LoadedVersions(loader, executor, needed.__contains__, most), loader, needed)

    asyncio.run(with_copies())


async def serve(versions: LoadedVersions, *digests: str) -> None:
    for digest in digests:
        await versions.prepare(GRAPH, Bundle(Path(), "graph", digest, 1, "fake", "", {}))
        versions.activate(f"version {digest}", digest)


def test_what_nobody_needs_is_given_back() -> None:
    async def test(versions: LoadedVersions, loader: Loader, _: set[str]) -> None:
        await serve(versions, "a", "b")
        assert (versions.active.engine, versions.retained, loader.given_back) == ("b", set(), ["a"])
        assert versions.find("a") is None

    run(test)


def test_what_is_needed_stays_until_it_is_forgotten() -> None:
    async def test(versions: LoadedVersions, loader: Loader, needed: set[str]) -> None:
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

    run(test)


def test_no_more_stay_than_may_whoever_needs_them() -> None:
    async def test(versions: LoadedVersions, loader: Loader, needed: set[str]) -> None:
        needed |= set("abcdef")
        await serve(versions, *"abcdef")
        assert (versions.retained, loader.given_back) == (set("de"), list("abc"))

    run(test)


def test_a_version_that_is_held_and_serves_again_is_the_same_one() -> None:
    async def test(versions: LoadedVersions, loader: Loader, needed: set[str]) -> None:
        needed.add("a")
        await serve(versions, "a")
        loaded = versions.active
        await serve(versions, "b", "a", "c")
        assert versions.find("a") is loaded
        assert not loaded.retired
        assert loader.given_back == ["a", "b"]  # the second copy of a, before b

    run(test)


def test_the_same_weights_under_another_name_go_on_in_the_same_engine() -> None:
    async def test(versions: LoadedVersions, loader: Loader, _: set[str]) -> None:
        await serve(versions, "a")
        loaded = versions.active
        await versions.prepare(GRAPH, Bundle(Path(), "graph", "a", 1, "fake", "", {}))
        versions.activate("another name", "a")
        assert versions.active is loaded
        assert versions.active.version.name == "another name"
        assert loader.given_back == ["a"]

    run(test)


def test_an_engine_is_given_back_only_when_no_batch_runs_on_it() -> None:
    async def test(versions: LoadedVersions, loader: Loader, needed: set[str]) -> None:
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

    run(test)
