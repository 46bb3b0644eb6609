"""Files that members have from each other: who is given what, and what is taken of what another one gives."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.artifacts.bundle import COMPILED_FILE, Bundle, Graph
from app.control.fleet_files import FleetFiles
from app.errors import FleetLost, SwapRefused, Unauthorized, UnknownVersion
from app.fleet.stream import files_in, stream_of
from saver.artifact import digest_of, hash_files, write_checkpoint_manifest
from tests.support.answering import AnsweringHandler, answering
from tests.support.manager import FakeBuilder, Harness, open_harness
from tests.support.swapping import GRAPH

pytestmark = pytest.mark.anyio


class Giver(ThreadingHTTPServer):
    """Another member, which gives the folders of `gives` by their paths, and notes in `asked` what it is asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), GiverHandler)
        self.gives: dict[str, Path] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class GiverHandler(AnsweringHandler):
    server: Giver

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        folder = self.server.gives.get(self.path)
        data = b"" if folder is None else b"".join(stream_of(folder, files_in(folder)))
        self.answer(404 if folder is None else 200, data)


@pytest.fixture
def giver() -> Iterator[Giver]:
    with answering(Giver()) as giver:
        yield giver


class Fleet:
    """The other members, of which one may give files. `lost`: Redis is."""

    def __init__(self, giver: Giver | None) -> None:
        self.secret = "the secret"
        self.lost = False
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._urls = [] if giver is None else [giver.url]

    def givers(self, policy: str) -> list[str]:
        return self._urls

    async def read_secret(self) -> None:
        if self.lost:
            raise FleetLost("gone")

    async def ask_all(self, path: str, body: dict[str, str]) -> None:
        self.asked.append((path, body))


class Builder(FakeBuilder):
    """One whose graphs can be read again."""

    async def open(self, folder: Path, graphs: Path) -> Graph:
        graph = replace(await super().open(folder, graphs), serving=GRAPH.serving)
        graph.write()
        return graph


class Scenario:
    def __init__(self, harness: Harness, giver: Giver | None, uploads: list[Path]) -> None:
        self.harness, self.fleet, self.uploads = harness, Fleet(giver), uploads
        parts: Any = self.fleet
        self.files = FleetFiles(parts, harness.manager, harness.state_dir, uploads, harness.executor)
        harness.manager.targets.preparing.fetch = self.files.fetch

    async def given(self, kind: str, name: str) -> Path:
        return (await self.files.given(kind, name, "the secret"))[0]


@asynccontextmanager
async def opened(folder: Path, giver: Giver | None = None) -> AsyncIterator[Scenario]:
    uploads = [folder / "one", folder / "two"]
    async with open_harness(folder / "p", builder=Builder()) as harness:
        yield Scenario(harness, giver, uploads)


def version(folder: Path, graph: str = "graph", weights: str = "weights", **more: Any) -> Bundle:
    """A version with weights, whose digest is theirs."""
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "index").write_text(weights)
    files = hash_files(folder, [folder / "variables" / "index"])
    found = replace(Bundle(folder, graph, digest_of(files), 1, "fake", "", {}, files), **more)
    found.write()
    return found


def checkpoint(folder: Path, weights: str = "weights") -> str:
    """Returns the digest of a checkpoint that it writes."""
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "index").write_text(weights)
    return write_checkpoint_manifest(folder, 1).digest


# What this server gives.


@pytest.mark.parametrize("known", ["the secret", ""])
async def test_nothing_is_given_to_who_has_no_secret_of_the_fleet(tmp_path: Path, known: str) -> None:
    async with opened(tmp_path) as scenario:
        scenario.fleet.secret, scenario.fleet.lost = known, True
        for secret in ("", "another", "the sécret"):
            with pytest.raises(Unauthorized, match="this is for the servers of the fleet"):
                await scenario.files.given("graphs", scenario.harness.graph.digest, secret)
            with pytest.raises(Unauthorized):
                await scenario.files.take_upload("c", "digest", secret)


async def test_versions_and_graphs_are_given_by_digest_and_uploads_by_name(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        state_dir, graph = scenario.harness.state_dir, scenario.harness.graph
        (scenario.uploads[1] / "step-1").mkdir(parents=True)
        assert await scenario.given("checkpoints", "step-1") == scenario.uploads[1] / "step-1"
        (scenario.uploads[0] / "step-1").mkdir(parents=True)
        assert await scenario.given("checkpoints", "step-1") == scenario.uploads[0] / "step-1"
        assert await scenario.given("graphs", graph.digest) == graph.folder
        assert await scenario.given("versions", graph.digest) == state_dir.place(graph.digest)  # the export serves


@pytest.mark.parametrize(
    ("kind", "name"),
    [("versions", ".."), ("graphs", "../graphs"), ("checkpoints", ".."), ("checkpoints", "no"), ("others", "known")],
)
async def test_nothing_else_is_given(tmp_path: Path, kind: str, name: str) -> None:
    async with opened(tmp_path) as scenario:
        for folder in (*scenario.uploads, scenario.harness.state_dir.graphs / "known"):
            folder.mkdir()
        with pytest.raises(UnknownVersion, match=f"nothing of the name '{name}' is here"):
            await scenario.given(kind, name)


async def test_with_a_version_comes_what_was_compared_of_it_for_the_last_eight(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        made = [version(scenario.harness.state_dir.place(f"v{number}"), digest=f"v{number}") for number in range(9)]
        for bundle in made:
            await scenario.files.note(bundle)
        compared = [(await scenario.files.given("versions", bundle.digest, "the secret"))[1] for bundle in made]
        assert [list(one) for one in compared] == [[]] + 8 * [["variables/index"]]
        assert compared[8]["variables/index"][3] == hashlib.sha256(b"weights").hexdigest()


async def test_files_that_are_gone_when_they_are_to_be_noted_are_no_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        bundle = version(tmp_path / "v")
        shutil.rmtree(bundle.folder)
        await scenario.files.note(bundle)


async def test_every_other_server_hears_of_an_upload_with_its_digest(tmp_path: Path) -> None:
    async with opened(tmp_path) as scenario:
        await scenario.files.share_upload("step-1", "d1")
        assert scenario.fleet.asked == [("/fleet/policies/p/uploads/step-1", {"digest": "d1"})]


# What it takes.


async def test_a_version_that_arrives_is_known_and_given_on_with_what_was_compared(
    tmp_path: Path, giver: Giver
) -> None:
    async with opened(tmp_path, giver) as scenario:
        bundle = version(tmp_path / "v")
        giver.gives[f"/fleet/policies/p/versions/{bundle.digest}"] = bundle.folder
        place = scenario.harness.state_dir.place(bundle.digest)
        await scenario.files.fetch("versions", bundle.digest, place)
        assert scenario.harness.state_dir.version(bundle.digest) == replace(bundle, folder=place)
        given, compared = await scenario.files.given("versions", bundle.digest, "the secret")
        assert (given, list(compared)) == (place, ["variables/index"])


def other_weights(folder: Path) -> None:
    """They are what the manifest lists, and not what the digest says."""
    version(folder, weights="others", digest=version(folder.parent / "v").digest)


def other_version(folder: Path) -> None:
    version(folder, weights="others")


def other_digest(folder: Path) -> None:
    version(folder, digest="another")


def own_weights(folder: Path) -> None:
    """Those of an export go by the digest of the whole export."""
    digest = version(folder.parent / "v").digest
    version(folder, graph=digest, weights="others", digest=digest)


def later_format(folder: Path) -> None:
    version(folder)
    (folder / "bundle.json").write_text('{"format": 99}')


def damaged(folder: Path) -> None:
    """Of this format, and not as its own manifest says."""
    version(folder)
    (folder / "variables" / "index").write_text("damaged on its way")


def compiled(folder: Path) -> None:
    """What was compiled here is no part of the digest, as another machine may compile it otherwise."""
    bundle = version(folder)
    (folder / COMPILED_FILE).write_text("compiled")
    replace(bundle, files=hash_files(folder, [folder / "variables" / "index", folder / COMPILED_FILE])).write()


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (other_weights, False),
        (other_version, False),
        (other_digest, False),
        (own_weights, True),
        (later_format, True),
        (damaged, False),
        (compiled, True),
    ],
)
async def test_what_is_not_the_version_is_not_taken_and_one_that_is_not_readable_is_for_its_weights(
    tmp_path: Path, giver: Giver, make: Any, taken: bool
) -> None:
    digest = version(tmp_path / "wanted").digest
    async with opened(tmp_path, giver) as scenario:
        make(tmp_path / "given")
        giver.gives[f"/fleet/policies/p/versions/{digest}"] = tmp_path / "given"
        place = scenario.harness.state_dir.place(digest)
        if taken:
            await scenario.files.fetch("versions", digest, place)
        else:
            with pytest.raises(SwapRefused, match="what it gave is not what was asked for"):
                await scenario.files.fetch("versions", digest, place)
        assert place.exists() == taken
        assert (scenario.harness.state_dir.version(digest) is not None) == (taken and make is not later_format)


@pytest.mark.parametrize("digest", ["wanted", "another"])
async def test_another_graph_is_not_taken_for_the_one_that_is_wanted(tmp_path: Path, giver: Giver, digest: str) -> None:
    async with opened(tmp_path, giver) as scenario:
        (tmp_path / "given").mkdir()
        replace(GRAPH, folder=tmp_path / "given", digest=digest).write()
        giver.gives["/fleet/policies/p/graphs/wanted"] = tmp_path / "given"
        place = scenario.harness.state_dir.graphs / "wanted"
        if digest == "wanted":
            await scenario.files.fetch("graphs", "wanted", place)
        else:
            with pytest.raises(SwapRefused, match="not what was asked for"):
                await scenario.files.fetch("graphs", "wanted", place)
        assert place.exists() == (digest == "wanted")


async def test_a_version_that_sessions_need_comes_with_its_graph_from_who_has_them(
    tmp_path: Path, giver: Giver
) -> None:
    async with opened(tmp_path, giver) as scenario:
        (tmp_path / "g").mkdir()
        graph = replace(scenario.harness.graph, folder=tmp_path / "g", digest="g2")
        graph.write()
        bundle = version(tmp_path / "v", "g2")
        giver.gives = {
            "/fleet/policies/p/graphs/g2": graph.folder,
            f"/fleet/policies/p/versions/{bundle.digest}": bundle.folder,
        }
        for _ in range(2):
            found = await scenario.files.obtain_version(bundle.digest)
            assert (found[0].digest, found[1].digest) == ("g2", bundle.digest)
        assert len(giver.asked) == 2  # what is here is not fetched again
        own = scenario.harness.graph
        assert (await scenario.files.obtain_version(own.digest))[0] is own


@pytest.mark.parametrize(
    ("make", "reason"), [(None, "no member gives it"), (later_format, "in a form that this one does not read")]
)
async def test_a_version_that_nobody_has_or_only_in_another_form_is_refused(
    tmp_path: Path, giver: Giver, make: Any, reason: str
) -> None:
    async with opened(tmp_path, giver) as scenario:
        digest = version(tmp_path / "wanted").digest
        if make is not None:
            make(tmp_path / "given")
            giver.gives[f"/fleet/policies/p/versions/{digest}"] = tmp_path / "given"
        with pytest.raises(SwapRefused, match=reason):
            await scenario.files.obtain_version(digest)


async def test_an_upload_is_fetched_once_to_the_first_folder_that_can_be_written(tmp_path: Path, giver: Giver) -> None:
    async with opened(tmp_path, giver) as scenario:
        scenario.uploads[0].write_text("no folder")
        digest = checkpoint(tmp_path / "given")
        giver.gives["/fleet/policies/p/checkpoints/c"] = tmp_path / "given"
        await scenario.files.take_upload("c", digest, "the secret")
        assert (scenario.uploads[1] / "c" / "variables" / "index").read_text() == "weights"
        asked = len(giver.asked)
        await scenario.files.take_upload("c", digest, "the secret")
        await scenario.files.take_upload("../c", "another", "the secret")
        assert len(giver.asked) == asked
        shutil.rmtree(tmp_path / "given")
        newer = checkpoint(tmp_path / "given", "newer")
        await scenario.files.take_upload("c", newer, "the secret")  # the name was uploaded again
        assert (scenario.uploads[1] / "c" / "variables" / "index").read_text() == "newer"


async def test_an_upload_that_arrives_as_another_one_or_in_part_is_not_taken(tmp_path: Path, giver: Giver) -> None:
    async with opened(tmp_path, giver) as scenario:
        digest = checkpoint(tmp_path / "given")
        giver.gives["/fleet/policies/p/checkpoints/c"] = tmp_path / "given"
        with pytest.raises(SwapRefused, match="not what was asked for"):
            await scenario.files.take_upload("c", "another", "the secret")
        (tmp_path / "given" / "variables" / "index").unlink()
        with pytest.raises(SwapRefused, match="not what was asked for"):
            await scenario.files.take_upload("c", digest, "the secret")
        assert list(scenario.uploads[0].iterdir()) == []


async def test_an_upload_that_no_folder_can_take_is_refused_with_the_reason_of_each(
    tmp_path: Path, giver: Giver
) -> None:
    async with opened(tmp_path, giver) as scenario:
        for folder in scenario.uploads:
            folder.write_text("no folder")
        digest = checkpoint(tmp_path / "given")
        giver.gives["/fleet/policies/p/checkpoints/c"] = tmp_path / "given"
        with pytest.raises(SwapRefused) as refused:
            await scenario.files.take_upload("c", digest, "the secret")
        one, two = (f"{folder}: " for folder in scenario.uploads)
        assert str(refused.value).startswith(f"no folder for checkpoints can be written ({one}")
        assert f"; {two}" in str(refused.value)
