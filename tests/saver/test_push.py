import base64
import contextlib
import http.server
import io
import json
import socket
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saver import push as push_module
from saver.push import PushError, push

SHARD = "variables.data-00000-of-00001"


class Fake(http.server.BaseHTTPRequestHandler):
    """A server that keeps what it was sent, and gives one answer."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.calls.append((self.command, self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status, content = self.server.answers[self.command]  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Fake) as server:
        server.calls = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.answers = {
            "GET": (200, b'{"policies": [{"name": "first"}, {"name": "second"}]}'),
            "PUT": (201, b'{"version": "a", "train_step": 7, "digest": "0123456789abcdef"}'),
        }
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "0000000700"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / SHARD).write_bytes(bytes(range(256)) * 3000)
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / ".DS_Store").write_bytes(b"of no checkpoint")
    (folder / "checkpoint.json").write_text("{}")
    (folder / "note.txt").write_text("of no checkpoint")
    return folder


def test_what_is_sent_is_a_tar_of_the_checkpoint(fake, checkpoint):
    assert push(checkpoint, fake.url, {"POLICY_SERVER_ADMIN_TOKEN": "t\n"}) == (
        "first: a (train step 7) is stored, digest 0123456789ab…"
    )
    method, path, headers, body = fake.calls[-1]
    assert (method, path) == ("PUT", "/admin/policies/first/checkpoints/0000000700")
    assert headers["Authorization"] == "Bearer t"
    assert headers["Content-Type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        sent = {m.name: archive.extractfile(m).read() for m in archive}
    assert sent == {
        "checkpoint.json": b"{}",
        f"variables/{SHARD}": bytes(range(256)) * 3000,
        "variables/variables.index": b"index",
    }
    assert len(body) == int(headers["Content-Length"])


@pytest.mark.parametrize(
    ("path", "policy", "asked"),
    [
        ("", None, "/admin/policies/first/checkpoints/0000000700"),
        ("/", None, "/admin/policies/first/checkpoints/0000000700"),
        ("/v1/policies", None, "/admin/policies/first/checkpoints/0000000700"),
        ("", "second", "/admin/policies/second/checkpoints/0000000700"),
        ("/v1/policies/second", None, "/admin/policies/second/checkpoints/0000000700"),
        ("/v1/policies/second/", "second", "/admin/policies/second/checkpoints/0000000700"),
        ("/behind/a/proxy", "second", "/behind/a/proxy/admin/policies/second/checkpoints/0000000700"),
        ("/behind/v1/policies/second", None, "/behind/admin/policies/second/checkpoints/0000000700"),
    ],
)
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_address_and_policy(fake, checkpoint, path, policy, asked, scheme):
    push(checkpoint, fake.url.replace("http://", scheme) + path, {}, policy=policy)
    assert fake.calls[-1][1] == asked
    assert len(fake.calls) == (2 if "first" in asked else 1)


def test_tokens_go_only_where_they_belong(fake, checkpoint):
    push(checkpoint, fake.url, {"POLICY_SERVER_ADMIN_TOKEN": "admin", "POLICY_SERVER_DATA_TOKEN": "data"})
    assert [headers["Authorization"] for _, _, headers, _ in fake.calls] == ["Bearer data", "Bearer admin"]
    push(checkpoint, fake.url, {})
    assert all("Authorization" not in headers for _, _, headers, _ in fake.calls[2:])


def test_activate_says_what_serves(fake, checkpoint):
    fake.answers["PUT"] = (200, b'{"version": "b", "train_step": 8, "previous": "a", "took_ms": 12.3}')
    assert push(checkpoint, fake.url, {}, name="b", activate=True) == (
        "first: b (train step 8) serves; before it a; took 12 ms"
    )
    assert fake.calls[-1][1].endswith("/b?activate=true")


@pytest.mark.parametrize(
    ("status", "content", "says"),
    [
        (409, {"detail": "two\nlines"}, "refused (409): two lines"),
        (401, {"detail": "no token"}, "here POLICY_SERVER_ADMIN_TOKEN has to be set"),
        (403, {"detail": "closed"}, "it is the server that has to be started with POLICY_SERVER_ADMIN_TOKEN"),
        (404, {"detail": "Not Found"}, "refused (404): Not Found"),
        (502, "<html>", "answers 502 Bad Gateway, and not as a policy server does"),
        (200, [], "answers 200 OK, and not as a policy server does"),
        (201, {}, "is no policy server: its answer lacks 'version'"),
    ],
)
def test_refusals_are_reported_in_one_line(fake, checkpoint, status, content, says):
    fake.answers["PUT"] = (status, (content if isinstance(content, str) else json.dumps(content)).encode())
    with pytest.raises(PushError) as caught:
        push(checkpoint, fake.url, {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_policies_that_needs_a_token_is_reported(fake, checkpoint):
    fake.answers["GET"] = (401, b'{"detail": "no token"}')
    with pytest.raises(PushError, match="POLICY_SERVER_DATA_TOKEN"):
        push(checkpoint, fake.url, {})


@pytest.mark.parametrize("answer", [b"{}", b'{"policies": []}', b'{"policies": 3}'])
def test_a_server_of_something_else_is_reported(fake, checkpoint, answer):
    fake.answers["GET"] = (200, answer)
    with pytest.raises(PushError, match="lists no policies"):
        push(checkpoint, fake.url, {})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http://x:y",
        "ftp://x",
        "http://[",
        "http://a\nb",
        "http://a b",
        "http://u:p@127.0.0.1:1",
        "x/y z",
    ],
)
def test_an_address_that_is_none_is_reported(checkpoint, url):
    with pytest.raises(PushError):
        push(checkpoint, url, {})


def test_a_checkpoint_that_shrinks_while_it_is_sent_is_reported(fake, checkpoint, monkeypatch):
    monkeypatch.setattr("saver.push._size", lambda file: 10**6)
    with pytest.raises(PushError, match="became shorter"):
        push(checkpoint, fake.url, {})


def test_what_cannot_be_reached_is_reported(checkpoint, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(PushError, match=r"cannot be reached: .*refused"):
            push(checkpoint, f"http://127.0.0.1:{bound.getsockname()[1]}", {}, policy="p")


def test_a_server_that_answers_nothing_is_reported(checkpoint, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(PushError, match="cannot be reached"):
            push(checkpoint, f"http://127.0.0.1:{server.getsockname()[1]}", {}, policy="p")


def test_the_answer_of_a_server_that_does_not_read_the_body_is_reported(checkpoint, monkeypatch):
    """It has refused by the head, and closes its side."""
    monkeypatch.setenv("NO_PROXY", "*")
    refusal = b'{"detail": "closed"}'

    def refuse(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while b"\r\n\r\n" not in connection.recv(1 << 16, socket.MSG_PEEK):
                pass
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(refusal), refusal))
            connection.shutdown(socket.SHUT_RD)
            while connection.recv(1 << 16):
                pass

    (checkpoint / "variables" / SHARD).write_bytes(bytes(8 << 20))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse, args=[server], daemon=True).start()
        with pytest.raises(PushError, match=r"refused \(403\): closed"):
            push(checkpoint, f"http://127.0.0.1:{server.getsockname()[1]}", {}, policy="p")


def test_a_proxy_of_the_environment_is_used(fake, checkpoint, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", fake.url.replace("http://", "http://me:it%27s@"))
    push(checkpoint, "http://trainer.invalid:81", {"POLICY_SERVER_ADMIN_TOKEN": "t"}, policy="p")
    _, path, headers, _ = fake.calls[-1]
    assert path == "http://trainer.invalid:81/admin/policies/p/checkpoints/0000000700"
    assert headers["Host"] == "trainer.invalid:81"
    assert headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"me:it's").decode()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    push(checkpoint, fake.url, {}, policy="p")
    assert fake.calls[-1][1] == "/admin/policies/p/checkpoints/0000000700"


def test_a_checkpoint_is_never_held_in_memory(fake, checkpoint):
    """Its pieces are read as they are sent."""
    (checkpoint / "variables" / SHARD).write_bytes(bytes(64 << 20))
    tracemalloc.start()
    try:
        with contextlib.suppress(PushError):
            push(checkpoint, "http://127.0.0.1:9", {}, policy="p")
        pieces = [len(piece) for piece in sent_by(checkpoint)]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert sum(pieces) > 64 << 20


def sent_by(folder: Path) -> Iterator[bytes]:
    with push_module._opened(push_module._files(folder)) as opened:
        yield from push_module._tar(opened)
