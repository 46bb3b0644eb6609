"""Which member is asked for files, how often, and when that ends; what a member gives is in test_stream.py."""

from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.errors import SwapRefused
from app.fleet import transfer
from app.fleet.paths import MACHINE_HEADER, machine
from app.fleet.stream import head_of
from app.fleet.transfer import Accepts, Wanted, fetch
from tests.support.answering import AnsweringHandler, answering

NOWHERE = "http://127.0.0.1:9"
BUSY = 503


class Members(ThreadingHTTPServer):
    """Members at /<name> of one port. `gives`: what each gives, as an HTTP status or the content of the file `a`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MemberHandler)
        self.gives: dict[str, list[int | bytes]] = {}
        self.asked: list[str] = []
        self.heads: list[tuple[str, str]] = []

    def urls(self, *names: str) -> list[str]:
        return [f"http://127.0.0.1:{self.server_address[1]}/{name}" for name in names]


class MemberHandler(AnsweringHandler):
    server: Members

    def do_GET(self) -> None:
        _, name, path = self.path.split("/", 2)
        self.server.asked.append(name)
        self.server.heads.append((self.headers.get("Authorization", ""), self.headers.get(MACHINE_HEADER, "")))
        assert path == "files"
        gives = self.server.gives[name]
        given = gives.pop(0) if len(gives) > 1 else gives[0]
        data = b"" if isinstance(given, int) else head_of({"a": len(given)}) + given
        self.answer(given if isinstance(given, int) else 200, data)


@pytest.fixture
def members() -> Iterator[Members]:
    with answering(Members()) as members:
        yield members


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a fetch in seconds, of a clock that only they move."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(transfer, "time", clock)
    return pauses


def wanted(folder: Path, accepts: Accepts = lambda *_: True, linked: bool = False) -> Wanted:
    return Wanted("/files", "the secret", folder / "wanted", accepts, linked)


def taken(folder: Path) -> bytes:
    return (folder / "wanted" / "a").read_bytes()


def test_members_are_asked_in_turn_until_one_gives_it(members: Members, tmp_path: Path) -> None:
    members.gives = {"refuses": [404], "gives": [b"given"], "not asked": [b"others"]}
    hashes = fetch(lambda: [NOWHERE, *members.urls("refuses", "gives", "not asked")], wanted(tmp_path))
    assert (taken(tmp_path), list(hashes), members.asked) == (b"given", ["a"], ["refuses", "gives"])


def test_a_member_that_gives_something_else_is_passed_over(members: Members, tmp_path: Path) -> None:
    members.gives = {"one": [b"others"], "two": [b"wanted"]}
    accepts: Accepts = lambda folder, _: (folder / "a").read_bytes() == b"wanted"  # noqa: E731
    fetch(lambda: members.urls("one", "two"), wanted(tmp_path, accepts))
    assert taken(tmp_path) == b"wanted"
    assert [path.name for path in tmp_path.iterdir()] == ["wanted"]


def test_the_secret_is_shown_and_the_machine_only_where_files_may_be_the_same(members: Members, tmp_path: Path) -> None:
    members.gives = {"m": [b"given"]}
    for linked in (False, True):
        fetch(lambda: members.urls("m"), wanted(tmp_path, linked=linked))
    assert members.heads == [("Bearer the secret", ""), ("Bearer the secret", machine())]


def test_what_lies_there_is_replaced(members: Members, tmp_path: Path) -> None:
    members.gives = {"m": [b"older", b"newer"]}
    for content in (b"older", b"newer"):
        fetch(lambda: members.urls("m"), wanted(tmp_path))
        assert taken(tmp_path) == content


def test_who_refuses_is_named_with_its_reason_and_not_asked_again(
    members: Members, tmp_path: Path, pauses: list[float]
) -> None:
    members.gives = {"one": [404], "two": [401]}
    one, two = members.urls("one", "two")
    with pytest.raises(SwapRefused) as refused:
        fetch(lambda: [one, two], wanted(tmp_path))
    assert str(refused.value) == f"no member gives it: {one}: status 404; {two}: status 401"
    assert refused.value.for_now
    assert (members.asked, pauses) == (["one", "two"], [])


def test_without_other_members_nobody_gives_it(tmp_path: Path) -> None:
    with pytest.raises(SwapRefused, match=r"^no member gives it: there is none$"):
        fetch(list, wanted(tmp_path))


def test_while_one_gives_to_others_all_are_asked_again_those_that_are_there_then(
    members: Members, tmp_path: Path, pauses: list[float]
) -> None:
    members.gives = {"busy": [BUSY, BUSY, b"given"], "refuses": [404], "new": [404]}
    rounds = iter([members.urls("busy", "refuses"), [], [], members.urls("new", "busy"), [], [], members.urls("busy")])
    fetch(lambda: next(rounds, []), wanted(tmp_path))
    assert taken(tmp_path) == b"given"
    assert members.asked == ["busy", "refuses", "new", "busy", "busy"]
    assert len(pauses) == 2


def test_pauses_grow_to_a_second_and_end_after_a_minute(members: Members, tmp_path: Path, pauses: list[float]) -> None:
    members.gives = {"busy": [BUSY]}
    with pytest.raises(SwapRefused, match="it gives to others now"):
        fetch(lambda: members.urls("busy"), wanted(tmp_path))
    assert 60.0 < sum(pauses) <= 61.0
    assert 0.01 <= pauses[0] <= 0.02
    assert max(pauses) <= 1.0
    assert min(pauses[-10:]) >= 0.5


@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_the_list_of_members_raises_ends_the_fetch_and_nothing_is_left(
    members: Members, tmp_path: Path, at: int
) -> None:
    members.gives = {"m": [b"given"]}

    def stopping() -> Callable[[], list[str]]:
        calls = iter(range(1, 100))

        def urls() -> list[str]:
            if next(calls) == at:
                raise SwapRefused("the server is stopping")
            return members.urls("m")

        return urls

    with pytest.raises(SwapRefused, match=r"^the server is stopping$"):
        fetch(stopping(), wanted(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(members.asked) == (1 if at == 3 else 0)


def test_the_secret_is_in_no_log_of_what_is_wanted(tmp_path: Path) -> None:
    assert "the secret" not in repr(wanted(tmp_path))
