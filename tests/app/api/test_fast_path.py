"""Which requests the fast path takes, and which route they get."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.api.fast_path import FastPath
from app.inference.policy import Policy
from app.metrics import Metrics
from app.offload import Offload
from app.sessions.record import Answer
from app.wire.codecs import JSON, MSGPACK
from app.wire.limits import SMALL_BYTES

LENGTH = (b"content-length", b"2")
LIMIT = 10 * SMALL_BYTES


class Sessions:
    """In the place of the sessions in memory: keeps which steps are asked for."""

    def __init__(self, can_step_at_once: bool = True) -> None:
        self.can_step_at_once = can_step_at_once
        self.steps: list[Any] = []

    def step_at_once(self, policy: Any, id_: str, reads: Any, writes: Any, body: bytes) -> Answer:
        self.steps.append((policy.name, id_, reads, writes, body))
        return Answer(writes.media_type, b"stepped")

    def stepping(self, *_: Any) -> None: ...

    stepping_at_once = step_of = stepping


def policy(name: str) -> Policy:
    found: Any = SimpleNamespace(
        name=name,
        body_limit=lambda route, _: LIMIT if route != "get_initial_state" else 100,
        typed_decoder=SimpleNamespace(rows=object() if name == "first" else None),
        templates={("action", False): SimpleNamespace(names=("action",))},
        batcher=SimpleNamespace(turns=None),
    )
    return found  # type: ignore[no-any-return]


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


@pytest.fixture
def service() -> Any:
    def reader(route: str) -> Any:
        return lambda policy, codec, body: (policy.name, route, codec, body)

    readers = {route: reader(route) for route in ("action", "distribution", "get_initial_state")}
    parser = SimpleNamespace(at_once=print, large=print, readers=readers)
    return SimpleNamespace(
        policies=[policy("first"), policy("second")],
        default="first",
        parser=parser,
        offload=Offload(),
    )


@pytest.fixture
def fast_path(service: Any, sessions: Any) -> FastPath:
    return FastPath(service, sessions, Metrics(), token="", crosses_origins=False)


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        (b"/action", ("first", "action")),
        (b"/v1/policies/first/action", ("first", "action")),
        (b"/v1/policies/second/distribution", ("second", "distribution")),
        (b"/get_initial_state", ("first", "get_initial_state")),
    ],
)
def test_data_routes_are_read_for_their_policy(fast_path: FastPath, path: bytes, asks: tuple[str, str]) -> None:
    route = fast_path.route(path, [LENGTH])
    assert route is not None
    assert route.read(b"{}") == (*asks, JSON, b"{}")
    assert fast_path.route(path, [LENGTH]) is route


@pytest.mark.parametrize(
    "path",
    [b"/", b"/action/", b"/action?", b"/v1/policies/third/action", b"/livez", b"/v1/policies/first", b"//action"],
)
def test_other_paths_are_for_the_framework(fast_path: FastPath, path: bytes) -> None:
    assert fast_path.route(path, [LENGTH]) is None


@pytest.mark.parametrize(
    ("media", "accept", "reads", "writes"),
    [
        (b"", b"", JSON, JSON),
        (b"application/json", b"*/*", JSON, JSON),
        (b"application/msgpack", b"", MSGPACK, MSGPACK),
        (b"application/msgpack", b"application/json", MSGPACK, JSON),
    ],
)
def test_codecs_follow_the_headers(fast_path: FastPath, media: bytes, accept: bytes, reads: Any, writes: Any) -> None:
    route = fast_path.route(b"/action", [LENGTH, (b"content-type", media), (b"accept", accept)])
    assert route is not None
    assert route.writes is writes
    assert route.read(b"")[2] is reads  # type: ignore[index]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-length", b"%d" % (LIMIT + 1))],
        [LENGTH, (b"transfer-encoding", b"chunked")],
        [LENGTH, (b"content-encoding", b"gzip")],
        [LENGTH, (b"expect", b"100-continue")],
        [LENGTH, (b"content-type", b"text/html")],
    ],
)
def test_what_takes_more_is_for_the_framework(fast_path: FastPath, headers: Any) -> None:
    assert fast_path.route(b"/action", headers) is None


def test_a_body_may_be_as_large_as_its_own_route_allows(fast_path: FastPath) -> None:
    headers = [(b"content-length", b"101")]
    assert fast_path.body_limit == LIMIT
    assert fast_path.route(b"/action", headers) is not None
    assert fast_path.route(b"/get_initial_state", headers) is None


@pytest.mark.parametrize(
    ("bearer", "taken"), [(b"Bearer t", True), (b"bearer t", True), (b"Bearer u", False), (b"", False)]
)
def test_a_wrong_token_is_refused_by_the_framework(service: Any, sessions: Any, bearer: bytes, taken: bool) -> None:
    guarded = FastPath(service, sessions, Metrics(), token="t", crosses_origins=False)
    assert (guarded.route(b"/action", [LENGTH, (b"authorization", bearer)]) is not None) is taken


@pytest.mark.parametrize("crosses", [False, True])
def test_browsers_requests_need_the_framework_where_they_cross_origins(
    service: Any, sessions: Any, crosses: bool
) -> None:
    fast_path = FastPath(service, sessions, Metrics(), token="", crosses_origins=crosses)
    assert (fast_path.route(b"/action", [LENGTH, (b"origin", b"http://x")]) is None) is crosses


@pytest.mark.parametrize("path", [b"/sessions/one/action", b"/v1/policies/first/sessions/one/action"])
def test_steps_of_sessions_in_memory_are_taken(fast_path: FastPath, sessions: Sessions, path: bytes) -> None:
    route = fast_path.route(path, [LENGTH, (b"accept", b"application/msgpack")])
    assert route is not None
    answer = route.read(b"{}")
    assert isinstance(answer, Answer)
    assert answer.body == b"stepped"
    assert sessions.steps == [("first", "one", JSON, MSGPACK, b"{}")]


def test_other_session_requests_are_for_the_framework(fast_path: FastPath, service: Any) -> None:
    for path in (b"/sessions", b"/sessions/one", b"/sessions/o%6Ee/action", b"/v1/policies/third/sessions/a/action"):
        assert fast_path.route(path, [LENGTH]) is None
    elsewhere: Any = Sessions(can_step_at_once=False)
    with_store = FastPath(service, elsewhere, Metrics(), token="", crosses_origins=False)
    assert with_store.route(b"/sessions/one/action", [LENGTH]) is None


def test_a_policy_that_is_opened_late_is_taken_from_then_on(fast_path: FastPath) -> None:
    path = b"/v1/policies/late/action"
    assert fast_path.route(path, [LENGTH]) is None
    fast_path.add(policy("late"))
    assert fast_path.route(path, [LENGTH]) is not None


def test_routes_of_ever_new_headers_are_not_kept_without_bound(fast_path: FastPath) -> None:
    for number in range(1000):
        assert fast_path.route(b"/action", [LENGTH, (b"accept", b"a/%d, */*" % number)]) is not None
    kept = fast_path._endpoints[b"/action"].routes
    assert len(kept) <= 64
