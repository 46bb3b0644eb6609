"""What a stop asks of the system's sockets."""

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.sockets import accept_waiting, admit_nobody, unread_bytes


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def transport_of(end: socket.socket | None, closing: bool = False) -> Any:
    return SimpleNamespace(get_extra_info=lambda _: end, is_closing=lambda: closing)


def test_all_that_wait_are_accepted_and_then_none(listener: socket.socket) -> None:
    clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
    accepted: list[socket.socket] = []
    while len(accepted) < len(clients):
        accepted += accept_waiting(listener)
    assert {end.getpeername() for end in accepted} == {client.getsockname() for client in clients}
    assert accept_waiting(listener) == []
    for end in (*clients, *accepted):
        end.close()


def test_bytes_that_have_arrived_are_counted_until_they_are_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unread_bytes(transport_of(ours)) == 0
        theirs.sendall(b"12345")
        assert unread_bytes(transport_of(ours)) == 5
        ours.recv(2)
        assert unread_bytes(transport_of(ours)) == 3
        assert unread_bytes(transport_of(ours, closing=True)) == 0
    assert unread_bytes(transport_of(None)) == 0


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_no_new_connection_is_admitted_and_those_that_were_stay(family: int, host: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listener.listen(50)
        address = listener.getsockname()[:2]
        with contextlib.ExitStack() as stack:
            early = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(5)]
            for client in early:
                client.sendall(b"early")
            admit_nobody(listener)
            with socket.socket(family) as late:
                late.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    late.connect(address)
            accepted = [stack.enter_context(connection) for connection in accept_waiting(listener)]
            assert [connection.recv(10) for connection in accepted] == [b"early"] * 5
            listener.close()
            for connection, client in zip(accepted, early, strict=True):
                connection.sendall(b"answer")
                client.sendall(b"more")
                assert (client.recv(10), connection.recv(10)) == (b"answer", b"more")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 30)
