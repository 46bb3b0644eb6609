"""What a member gives, and what another takes of it: no byte more than was listed, and none outside its folder."""

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.errors import SwapRefused
from app.fleet import transfer
from app.fleet.stream import NotWhole, compared_in, files_in, head_of, link_files, stream_of, write_stream
from app.fleet.transfer import Wanted, fetch

FILES = {"bundle.json": b"{}", "empty": b"", "variables/index": b"i" * 70, "variables/deep/data": b"d" * 3_000_000}


def made(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def written(data: bytes, folder: Path, length: int | None = None, piece: int = 1 << 20) -> dict[str, str]:
    """Reads in pieces; a read beyond `length` is a mistake."""
    left = memoryview(data)

    def read(room: memoryview) -> int:
        nonlocal left
        count = min(len(room), len(left), piece)
        room[:count] = left[:count]
        left = left[count:]
        return count

    return write_stream(read, len(data) if length is None else length, folder)


def line(files: object) -> bytes:
    return json.dumps(files).encode() + b"\n"


@pytest.mark.parametrize("piece", [700, 1 << 16, 1 << 20])
def test_files_arrive_as_they_were_with_their_hashes(tmp_path: Path, piece: int) -> None:
    given = made(tmp_path / "given")
    files = files_in(given)
    assert list(files) == list(FILES)  # a manifest comes first
    data = b"".join(stream_of(given, files))
    assert len(data) == len(head_of(files)) + sum(files.values())
    hashes = written(data, tmp_path / "taken", piece=piece)
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    assert {name: (tmp_path / "taken" / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize(
    ("data", "length", "says"),
    [
        (line({"a": 3}) + b"abcd", None, "lists 3 bytes of files, and 4 follow"),
        (line({"a": 5}) + b"abcd", None, "lists 5 bytes of files, and 4 follow"),
        (line({"a": 4}) + b"ab", len(line({"a": 4})) + 4, "ends too early"),
        (line({"a": 2**62}), None, "lists"),
        (b"{", None, "ends too early"),
        (b"x" * 5_000_000, None, "no end"),
        (b"BZh91AY\n", None, "no list"),
        (b"[" * 100_000 + b"\n", None, "no list"),
        (line(["a"]) + b"a", None, "no list"),
        (line({"a": -1}), None, "no list"),
        (line({"a": 1.0}) + b"a", None, "no list"),
        (line({"a": True}) + b"a", None, "no list"),
        (line({"../a": 1}) + b"a", None, "no list"),
        (line({"/tmp/a": 1}) + b"a", None, "no list"),
        (line({"b/../../a": 1}) + b"a", None, "no list"),
        (line({"": 1}) + b"a", None, "no list"),
        (line({".": 1}) + b"a", None, "no list"),
        (line({"a//b": 1}) + b"a", None, "no list"),
        (line({"a\0": 1}) + b"a", None, "no list"),
        (line({"a": 1, "a/b": 1}) + b"ab", None, "a file as a folder"),
        (line({"a" * 256: 0}), None, "no list"),
        (line({"é" * 128: 0}), None, "no list"),
        (line({"a/" * 1500 + "b": 0}), None, "no list"),
        (line({"a/" * 40 + "b": 0}), None, "no list"),
        (line({"a/" * 500_000 + "b": 0}), None, "no list"),
        (line({("a" * 200 + "/") * 20 + "b": 0}), None, "no list"),
        (line({"\ud800": 0}), None, "no list"),
    ],
)  # fmt: skip
def test_what_is_not_as_listed_is_not_taken(tmp_path: Path, data: bytes, length: int | None, says: str) -> None:
    folder = tmp_path / "in" / "taken"
    folder.mkdir(parents=True)
    with pytest.raises(NotWhole, match=says):
        written(data, folder, length)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents] == []


class Giver:
    """Answers every request with the same bytes, and notes how many of them could be sent."""

    def __init__(self, answer: bytes, then: bytes = b"") -> None:
        self.answer, self.then, self.sent = answer, then, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(self.answer)
            try:
                while self.then and self.sent < 1 << 30:
                    self.sent += connection.send(self.then)
            except OSError:
                pass


@pytest.fixture
def given(request: pytest.FixtureRequest) -> Iterator[Giver]:
    giver = Giver(*request.param)
    giver.thread.start()
    yield giver
    giver.thread.join(20)
    giver.listener.close()


def taken(giver: Giver, place: Path) -> str:
    """Why nothing was taken, and nothing is left of it."""
    wanted = Wanted("/f", "s", place / "wanted", lambda *_: True)
    with pytest.raises(SwapRefused) as refused:
        fetch(lambda: [giver.url], wanted)
    assert list(place.iterdir()) == []
    return str(refused.value)


def head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


ONE = line({"a": 4})


@pytest.mark.parametrize("given", [(head(len(ONE) + 4) + ONE, b"x" * 65536)], indirect=True)
def test_one_that_gives_more_than_it_lists_is_left_with_the_rest(given: Giver, tmp_path: Path) -> None:
    wanted = Wanted("/f", "s", tmp_path / "wanted", lambda *_: True)
    assert fetch(lambda: [given.url], wanted).keys() == {"a"}
    assert (tmp_path / "wanted" / "a").read_bytes() == b"xxxx"
    given.thread.join(20)
    assert given.sent < 1 << 24  # what buffers hold


@pytest.mark.parametrize("given", [(b"HTTP/1.1 200 OK\r\n\r\n" + ONE, b"x" * 65536)], indirect=True)
def test_one_that_does_not_say_how_much_it_gives_gives_nothing(given: Giver, tmp_path: Path) -> None:
    assert "does not say how much" in taken(given, tmp_path)


@pytest.mark.parametrize("given", [(head(len(ONE) + 4) + ONE + b"xx",)], indirect=True)
def test_one_that_goes_in_the_midst_has_given_nothing(given: Giver, tmp_path: Path) -> None:
    assert "ends too early" in taken(given, tmp_path)


@pytest.mark.parametrize("given", [(b"no HTTP at all\r\n\r\n",)], indirect=True)
def test_one_that_speaks_something_else_gives_nothing(given: Giver, tmp_path: Path) -> None:
    assert "no HTTP at all" in taken(given, tmp_path)


class Dripping(Giver):
    """Gives its answer at once, and then a byte now and then until it is over."""

    over: threading.Event

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(self.answer)
            while not self.over.wait(0.05):
                connection.sendall(self.then)


LINKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"


@pytest.mark.parametrize(
    "answer",
    [b"HT", b"HTTP/1.1 200 OK\r\nA: ", head(100_000), head(len(line({"a": 4000})) + 4000) + line({"a": 4000}), LINKED],
    ids=["no status", "a head without end", "a list without end", "a file without end", "names without end"],
)
def test_one_that_drips_is_left(answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PIECE_S", 0.3)
    giver = Dripping(answer, b"x")
    giver.over = threading.Event()
    giver.thread.start()
    wanted = Wanted("/f", "s", tmp_path / "wanted", lambda *_: True)
    with pytest.raises(SwapRefused, match="no member gives it"):
        fetch(lambda: [giver.url], wanted)
    assert list(tmp_path.iterdir()) == []
    giver.over.set()
    giver.thread.join(20)
    giver.listener.close()


@pytest.mark.parametrize("given", [(head(2**60), b"x" * 65536)], indirect=True)
def test_more_than_there_is_room_for_is_not_begun(given: Giver, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        fetch(lambda: [given.url], Wanted("/f", "s", tmp_path / "wanted", lambda *_: True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [(head(2**60), b"x" * 65536)], indirect=True)
def test_one_that_claims_more_than_there_is_room_for_keeps_nobody_from_giving(given: Giver, tmp_path: Path) -> None:
    other = Giver(head(len(ONE) + 4) + ONE + b"sent")
    other.thread.start()
    fetch(lambda: [given.url, other.url], Wanted("/f", "s", tmp_path / "wanted", lambda *_: True))
    assert (tmp_path / "wanted" / "a").read_bytes() == b"sent"
    other.thread.join(20)
    other.listener.close()


@pytest.mark.parametrize("url", ["none", "http://", "http://127.0.0.1:99999", "http://[::1", "http://xn--/", "ftp:"])
def test_a_member_at_no_url_gives_nothing(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PATIENCE_S", 1.0)
    with pytest.raises(SwapRefused, match="no member gives it"):
        fetch(lambda: [url], Wanted("/f", "s", tmp_path / "wanted", lambda *_: True))


def named(folder: Path, files: object = None, compared: object = None) -> tuple[bytes, ...]:
    """An answer of a member on this machine, which names its folder."""
    said = {"folder": str(folder), "files": files_in(made(folder)) if files is None else files, "compared": compared}
    body = json.dumps(said).encode()
    return (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body,)


@pytest.fixture
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Giver, Path]]:
    """A member that names a folder first, and gives a file when it is asked again."""
    giver = Giver(*named(*request.param(tmp_path)))

    def run() -> None:
        Giver.run(giver)
        giver.answer = head(len(ONE) + 4) + ONE + b"sent"
        giver.run()

    giver.thread = threading.Thread(target=run)
    giver.thread.start()
    yield giver, tmp_path / "taken" / "wanted"
    if giver.thread.is_alive():  # nobody asked again
        socket.create_connection(giver.listener.getsockname()).close()
    giver.thread.join(20)
    giver.listener.close()


def wanted_at(place: Path, accepts: bool = True) -> Wanted:
    return Wanted("/f", "s", place, lambda folder, _: accepts or (folder / "a").exists(), linked=True)


@pytest.mark.parametrize("two", [lambda place: (place / "given",)], indirect=True)
def test_files_of_a_member_on_this_machine_are_the_same_files(two: tuple[Giver, Path]) -> None:
    giver, place = two
    hashes = fetch(lambda: [giver.url], wanted_at(place))
    assert hashes == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    given = place.parents[1] / "given"
    assert all((given / name).samefile(place / name) for name in FILES)


@pytest.mark.parametrize(
    "two",
    [
        lambda place: (place / "gone", {"bundle.json": 2}),
        lambda place: (place / "given", {"../secret": 2}),
        lambda place: (place / "given", ["bundle.json"]),
        lambda place: (Path("/proc/self"), {"status": 0}),
        lambda _: (Path("/dev"), {"null": 0}),
    ],
    ids=["gone", "outside", "no list", "another disk", "no file"],
    indirect=True,
)  # fmt: skip
def test_files_that_cannot_be_shared_are_sent(two: tuple[Giver, Path]) -> None:
    giver, place = two
    assert fetch(lambda: [giver.url], wanted_at(place)).keys() == {"a"}
    assert (place / "a").read_bytes() == b"sent"


@pytest.mark.parametrize("two", [lambda place: (place / "given",)], indirect=True)
def test_files_on_this_machine_that_are_others_are_not_taken(two: tuple[Giver, Path]) -> None:
    giver, place = two
    assert fetch(lambda: [giver.url], wanted_at(place, accepts=False)).keys() == {"a"}


def noted(folder: Path) -> tuple[Path, dict[str, int], object]:
    """A folder, and what its member says of files that it has compared: a sha256 that nobody else would find."""
    files = files_in(made(folder))
    return folder, files, compared_in(folder, dict.fromkeys(files, "5e"))


@pytest.mark.parametrize("two", [lambda place: noted(place / "given")], indirect=True)
def test_files_that_a_member_on_this_machine_has_compared_are_not_read_again(two: tuple[Giver, Path]) -> None:
    giver, place = two
    assert fetch(lambda: [giver.url], wanted_at(place)) == dict.fromkeys(FILES, "5e")


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"{]"),
        lambda file: file.write_bytes(b"{} "),
        lambda file: (file.unlink(), file.write_bytes(b"{}")),
    ],
    ids=["other bytes", "more", "another file"],
)  # fmt: skip
def test_a_file_that_has_changed_since_it_was_compared_is_read(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    given, names = made(tmp_path / "given"), ["bundle.json", "empty"]
    os.utime(given / "bundle.json", ns=(1, 1))  # or it could be changed at the same time of a coarse clock
    compared = json.loads(json.dumps(compared_in(given, dict.fromkeys(names, "5e"))))
    os.link(given / "bundle.json", tmp_path / "kept")  # or its inode could be given to the next file
    change(given / "bundle.json")
    said = {"folder": str(given), "files": dict.fromkeys(names, 0), "compared": compared}
    hashes = link_files(said, tmp_path / "taken")
    assert hashes == {"bundle.json": hashlib.sha256((given / "bundle.json").read_bytes()).hexdigest(), "empty": "5e"}


@pytest.mark.parametrize("odd", [7, ["a"], {"bundle.json": 7}, {"bundle.json": []}, {"bundle.json": [2, 1, 1, "5e"]}])
def test_what_is_no_list_of_compared_files_has_all_of_them_read(tmp_path: Path, odd: object) -> None:
    said = {"folder": str(made(tmp_path / "given")), "files": {"bundle.json": 2}, "compared": odd}
    assert link_files(said, tmp_path / "taken") == {"bundle.json": hashlib.sha256(b"{}").hexdigest()}


def test_a_sha256_that_is_none_has_the_file_read(tmp_path: Path) -> None:
    (name, entry), *_ = compared_in(made(tmp_path / "given"), dict.fromkeys(FILES, "")).items()
    said = {"folder": str(tmp_path / "given"), "files": {name: 2}, "compared": {name: [*entry[:3], 7]}}
    assert link_files(said, tmp_path / "taken") == {name: hashlib.sha256(FILES[name]).hexdigest()}
