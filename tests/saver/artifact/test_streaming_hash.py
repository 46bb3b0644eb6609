import hashlib
import threading
from pathlib import Path

import pytest

from saver.artifact import streaming_hash
from saver.artifact.streaming_hash import StreamingHash

CHUNK = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(streaming_hash, "_START_S", 0)


def write(path: Path, chunks: int, followed: StreamingHash) -> None:
    """Writes as TensorFlow does: under another name first, in pieces."""
    temporary = path.with_name(f"part-{path.name}.tempstate1")
    path.parent.mkdir(exist_ok=True)
    with temporary.open("wb") as file:
        for _ in range(chunks):
            file.write(CHUNK)
            file.flush()
            followed._written.wait(0.001)
    temporary.rename(path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes_are_those_of_the_finished_files(tmp_path):
    paths = [tmp_path / "variables" / f"variables.data-0000{number}-of-00002" for number in range(2)]
    with StreamingHash(tmp_path) as hashes:
        writers = [threading.Thread(target=write, args=(path, 12, hashes)) for path in paths]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert [hashes.of(path) for path in paths] == [sha256(path) for path in paths]


def test_most_is_read_before_the_end(tmp_path):
    path = tmp_path / "variables" / "variables.data-00000-of-00001"
    with StreamingHash(tmp_path) as hashes:
        write(path, 12, hashes)
        for _ in range(1000):
            sizes = [file.size for file in hashes._files.values()]
            if sizes == [12 * len(CHUNK)]:
                break
            hashes._written.wait(0.01)
    assert sizes == [12 * len(CHUNK)]


def test_other_files_and_files_that_changed_afterwards_are_unknown(tmp_path):
    path = tmp_path / "variables.data-00000-of-00001"
    with StreamingHash(tmp_path) as hashes:
        write(path, 2, hashes)
        (tmp_path / "variables.index").write_bytes(b"index")
    assert hashes.of(path) is not None
    assert hashes.of(tmp_path / "variables.index") is None
    path.write_bytes(CHUNK)
    assert hashes.of(path) is None
    path.unlink()
    path.write_bytes(2 * CHUNK)
    new_inode = hashes.of(path)
    assert new_inode in (None, sha256(path))


def test_small_files_are_left_to_others(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming_hash, "_START_S", 60)
    with StreamingHash(tmp_path) as hashes:
        (tmp_path / "x.data-0").write_bytes(b"x")
    assert hashes.of(tmp_path / "x.data-0") is None


def test_error_of_the_writer_comes_through(tmp_path):
    with pytest.raises(ZeroDivisionError), StreamingHash(tmp_path / "not there"):
        raise ZeroDivisionError


def test_system_without_the_hint_does_without(tmp_path, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    path = tmp_path / "x.data-0"
    with StreamingHash(tmp_path) as hashes:
        write(path, 9, hashes)
    assert hashes.of(path) == sha256(path)
