import asyncio
import io
import json
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from app.errors import DoesNotFit, NotJson, SwapRefused, Unsupported
from app.uploads.upload import Stored, Uploads
from saver.artifact import check_files, read_checkpoint_manifest, write_checkpoint_manifest

LIMIT = 1 << 20


def tar(**files: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name if name == "checkpoint.json" else f"variables/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


async def parts(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def checked(folder: Path) -> int:
    """The content of `weights` is the train step."""
    text = (folder / "variables" / "weights").read_text()
    if not text.isdigit():
        raise SwapRefused(f"weights are {text}")
    return int(text)


def store(data: bytes, *folders: Path, name: str = "a", check: Callable[[Path], Awaitable[int]] = checked) -> Stored:
    return asyncio.run(Uploads(folders, LIMIT, check).store(name, parts(data)))


def manifest_of(tmp_path: Path, train_step: int, **files: bytes) -> bytes:
    folder = tmp_path / "manifest"
    for name, content in files.items():
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        (folder / "variables" / name).write_bytes(content)
    write_checkpoint_manifest(folder, train_step)
    return (folder / "checkpoint.json").read_bytes()


def test_what_is_stored_is_a_complete_checkpoint(tmp_path):
    stored = store(tar(weights=b"700", more=b"x" * 5000), tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints" / "a"
    manifest = read_checkpoint_manifest(folder)
    assert manifest is not None
    check_files(folder, manifest.files)
    assert manifest.files.keys() == {"variables/weights", "variables/more"}
    assert stored == Stored("a", 700, manifest.digest)
    assert os.listdir(tmp_path / "checkpoints") == ["a"]


def test_manifest_that_came_along_is_kept(tmp_path):
    manifest = manifest_of(tmp_path, 700, weights=b"700")
    stored = store(tar(**{"weights": b"700", "checkpoint.json": manifest}), tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "a" / "checkpoint.json").read_bytes() == manifest
    assert stored.digest == json.loads(manifest)["digest"]


def test_manifest_must_list_every_file(tmp_path):
    manifest = manifest_of(tmp_path, 700, weights=b"700")
    data = tar(**{"weights": b"700", "unlisted": b"x", "checkpoint.json": manifest})
    with pytest.raises(SwapRefused, match="does not list variables/unlisted"):
        store(data, tmp_path / "checkpoints")
    assert os.listdir(tmp_path / "checkpoints") == []


def test_overwriting_replaces_the_whole_folder(tmp_path):
    first = store(tar(weights=b"1", old=b"x"), tmp_path / "checkpoints")
    second = store(tar(weights=b"2"), tmp_path / "checkpoints")
    assert first.digest != second.digest
    assert os.listdir(tmp_path / "checkpoints" / "a" / "variables") == ["weights"]
    assert os.listdir(tmp_path / "checkpoints") == ["a"]


def test_refused_upload_leaves_the_earlier_one(tmp_path):
    store(tar(weights=b"1"), tmp_path / "checkpoints")
    with pytest.raises(SwapRefused, match="NaN"):
        store(tar(weights=b"NaN"), tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "a" / "variables" / "weights").read_bytes() == b"1"
    assert os.listdir(tmp_path / "checkpoints") == ["a"]


def test_damaged_tar_leaves_nothing(tmp_path):
    with pytest.raises(DoesNotFit):
        store(tar(weights=b"1")[:600], tmp_path / "checkpoints")
    assert os.listdir(tmp_path / "checkpoints") == []


@pytest.mark.anyio
async def test_client_that_goes_away_leaves_nothing(tmp_path):
    async def cut_off() -> AsyncIterator[bytes]:
        yield tar(weights=b"1" * 5000)[:2000]
        raise NotJson("gone")

    with pytest.raises(NotJson):
        await Uploads([tmp_path], LIMIT, checked).store("a", cut_off())
    assert os.listdir(tmp_path) == []


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["body", "check"])
async def test_cancelled_upload_leaves_nothing_and_no_thread(tmp_path, where):
    reached = asyncio.Event()

    async def stuck(_: object = None) -> int:
        reached.set()
        await asyncio.sleep(3600)
        return 0

    async def body() -> AsyncIterator[bytes]:
        yield tar(weights=b"1")
        if where == "body":
            await stuck()

    task = asyncio.create_task(Uploads([tmp_path], LIMIT, stuck).store("a", body()))
    await reached.wait()
    assert os.listdir(tmp_path) != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == []
    for thread in threading.enumerate():
        if thread.name.startswith("upload"):
            thread.join()  # it ends by itself
            assert not thread.is_alive()


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "..", "a/b", "ü", "a\n", "x" * 201, "export"])
def test_name_that_no_checkpoint_can_have_is_refused(tmp_path, name):
    with pytest.raises(DoesNotFit) as caught:
        store(tar(weights=b"1"), tmp_path / "checkpoints", name=name)
    assert caught.value.problems[0].where == "name"
    assert os.listdir(tmp_path) == []


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that even root cannot make."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "checkpoints"


def test_second_folder_is_taken_where_the_first_cannot_be_written(tmp_path, closed):
    store(tar(weights=b"1"), closed, tmp_path / "uploads")
    assert os.listdir(tmp_path / "uploads") == ["a"]


def test_once_the_first_can_be_written_the_second_has_no_older_one_of_that_name(tmp_path, closed):
    folders = [tmp_path / "checkpoints", tmp_path / "uploads"]
    store(tar(weights=b"1"), closed, folders[1])
    store(tar(weights=b"1"), closed, folders[1], name="other")
    store(tar(weights=b"2"), *folders)
    assert os.listdir(folders[0]) == ["a"]
    assert os.listdir(folders[1]) == ["other"]


def test_no_folder_to_write_to_is_refused_with_the_reasons(closed):
    with pytest.raises(Unsupported, match="checkpoints: Not a directory"):
        store(tar(weights=b"1"), closed)


def test_full_disk_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.uploads.upload.publish", full)
    with pytest.raises(SwapRefused, match="cannot be stored: No space left on device"):
        store(tar(weights=b"1"), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.anyio
async def test_uploads_at_once_do_not_meet(tmp_path):
    uploads = Uploads([tmp_path], LIMIT, checked)
    stored = await asyncio.gather(
        *(uploads.store(f"a{i % 4}", parts(tar(weights=b"%d" % i, more=bytes(9999)), 100)) for i in range(12))
    )
    assert [s.train_step for s in stored] == list(range(12))
    for i in range(4):
        manifest = read_checkpoint_manifest(tmp_path / f"a{i}")
        assert manifest is not None
        check_files(tmp_path / f"a{i}", manifest.files)
        assert manifest.digest in {s.digest for s in stored if s.version == f"a{i}"}
    assert sorted(os.listdir(tmp_path)) == ["a0", "a1", "a2", "a3"]
