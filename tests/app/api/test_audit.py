"""One line for each call of an admin route, and nothing in it that a client could make look like another."""

import logging
from typing import Any

import pytest

from app.api.audit import Audited

pytestmark = pytest.mark.anyio


async def lines(caplog: pytest.LogCaptureFixture, status: int | None = 200, **scope: Any) -> list[str]:
    async def app(_: Any, __: Any, send: Any) -> None:
        if status is None:
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": status})

    async def send(_: Any) -> None: ...

    whole = {"type": "http", "method": "POST", "path": "/admin/x", "client": ("10.0.0.7", 5), **scope}
    caplog.set_level(logging.INFO, "policy_server.audit")
    try:
        await Audited(app, lambda _: None)(whole, send, send)  # type: ignore[arg-type]
    except ZeroDivisionError:
        assert status is None
    return [record.getMessage() for record in caplog.records]


async def test_a_call_is_one_line_with_its_status(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await lines(caplog, 403)
    assert line.startswith("POST /admin/x from 10.0.0.7: 403 after ")


async def test_a_call_that_fails_is_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await lines(caplog, None, client=None)
    assert line.startswith("POST /admin/x from unix: no answer after ")


@pytest.mark.parametrize(("path", "count"), [("/action", 0), ("/p/admin/x", 1), ("/p/action", 0), ("/x/admin", 0)])
async def test_admin_routes_alone_are_logged(caplog: pytest.LogCaptureFixture, path: str, count: int) -> None:
    assert len(await lines(caplog, path=path, root_path="/p" if path.startswith("/p/") else "")) == count


@pytest.mark.parametrize("path", ["/admin/a from b: 200 after", "/admin/a\nb", "/admin/\x1b[2J", "/admin/\udc80"])
async def test_no_path_looks_like_another_line(caplog: pytest.LogCaptureFixture, path: str) -> None:
    (line,) = await lines(caplog, path=path)
    assert line.isprintable()
    assert line.count(" from ") == line.count(" after ") == 1
