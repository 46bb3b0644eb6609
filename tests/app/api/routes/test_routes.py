"""What the routes decide themselves, before or after anything is asked of a policy."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.api.routes.traffic import Canary
from app.rpc.messages import Swapped
from tests.support.worker_in_process import TOKEN, Running, running

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with running(monkeypatch, **settings) as worker:
        address = f"http://127.0.0.1:{worker.port}"
        async with httpx.AsyncClient(base_url=address, headers=bearer, trust_env=False, timeout=60) as http:
            yield worker, http


async def test_a_reload_wants_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (worker, http):
        worker.control.answers["reload_export"] = lambda _: Swapped("export", 0, "seven", 1.23456)
        path = "/admin/policies/echo/reload"
        for body, asked in (
            (b"", ("reload", "echo", None)),
            (b"{}", ("reload", "echo", None)),
            (b'{"checkpoint": "seven"}', ("reload", "echo", "seven")),
            (b'{"export": true}', ("reload_export", "echo")),
            (b'{"export": false, "checkpoint": "seven"}', ("reload", "echo", "seven")),
        ):
            answer = await http.post(path, content=body)
            assert (answer.status_code, worker.control.calls[-1]) == (200, asked)
        asked_for = len(worker.control.calls)
        for body, status, finding in (
            ({"export": True, "checkpoint": "seven"}, 422, "one of the two"),
            ({"export": 1}, 422, "export"),
            ({"checkpoint": 7}, 422, "checkpoint"),
            ({"name": "seven"}, 422, "name"),
            ([], 400, "object"),
            ("x" * 70_000, 413, "65536"),
        ):
            answer = await http.post(path, content=json.dumps(body))
            assert answer.status_code == status, answer.text
            assert finding in answer.text
        many = await http.post(path, content=json.dumps({f"field {n}": n for n in range(500)}))
        assert [(e["where"], e["problem"]) for e in many.json()["errors"]] == [("body", "500 fields")]
        assert len(worker.control.calls) == asked_for


async def test_what_took_long_is_shown_to_the_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (worker, http):
        worker.control.answers["rollback"] = lambda _: Swapped("six", 6, "seven", 1.23456)
        answer = await http.post("/admin/policies/echo/rollback")
        assert answer.json() == {"version": "six", "train_step": 6, "previous": "seven", "took_ms": 1.235}


async def test_versions_are_asked_for_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (worker, http):
        worker.control.answers["status"] = lambda *_: {"versions": [], "versions_total": 7, "pinned": None}
        path = "/admin/policies/echo/versions"
        assert (await http.get(path)).json() == {"versions": [], "versions_total": 7}
        assert worker.control.calls[-1] == ("status", "echo", 100, 0)
        assert (await http.get(path, params={"limit": 1000, "offset": 10**6})).status_code == 200
        assert worker.control.calls[-1] == ("status", "echo", 1000, 10**6)
        for odd in ({"limit": 0}, {"limit": 1001}, {"offset": -1}, {"limit": "all"}):
            assert (await http.get(path, params=odd)).status_code == 422


async def test_only_tars_are_uploaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (_, http):
        for media_type in ("application/json", "application/gzip", "text/plain; charset=utf-8"):
            headers = {"Content-Type": media_type}
            answer = await http.put("/admin/policies/echo/checkpoints/a", content=b"x", headers=headers)
            assert answer.status_code == 415
            assert "application/x-tar" in answer.json()["detail"]


async def test_metadata_is_shown_whatever_others_have_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (worker, http):
        version = worker.worker._service.policy("echo").versions.active.version
        for metadata in ({"epsilon": 0.5}, {"seen": 2**70}, {"note": "half a pair \ud800"}):
            object.__setattr__(version, "metadata", metadata)
            assert (await http.get("/v1/policies/echo/metadata")).json() == {"metadata": metadata}
        assert (await http.get("/v1/policies/echo/train_step")).json() == {"train_step": 7}


async def test_a_policy_that_is_not_open_makes_the_server_unready_and_says_no_more_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with client(monkeypatch) as (worker, http):
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        service = worker.worker._service
        service._names = ("echo", "other")
        service.fail({"other": "/secret/path is no export", "echo": "was tried before"})
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "failed": ["other"]})
        assert (await http.head("/readyz")).status_code == 503
        assert (await http.get("/livez")).json() == {"status": "alive"}
        rows = (await http.get("/v1/policies")).json()["policies"]
        assert [(row["name"], row["ready"], row.get("reason", "")) for row in rows] == [
            ("echo", True, ""),
            ("other", False, "/secret/path is no export"),
        ]


async def test_the_place_of_a_session_is_behind_what_a_proxy_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (_, http):
        begun = await http.post("/sessions", json={"id": "one", "observation": [0, 0, 0, 0]})
        assert begun.headers["location"] == "/v1/policies/echo/sessions/one"
        refused = await http.delete(begun.headers["location"], params={"run_id": "x" * 1000})
        assert refused.status_code == 422
        assert (await http.delete(begun.headers["location"])).status_code == 204


async def test_experience_that_is_not_recorded_is_501(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(monkeypatch) as (_, http):
        for path in ("/experience", "/v1/policies/echo/experience"):
            answer = await http.get(path)
            assert answer.status_code == 501
            assert "POLICY_SERVER_EXPERIENCE_DIR is not set" in answer.json()["detail"]


@pytest.mark.parametrize("drop", [math.inf, math.nan, 1e308, 100.5, -0.1])
def test_a_drop_of_returns_is_one_that_can_be_tested(drop: float) -> None:
    """1e400 is infinite as Python reads JSON."""
    with pytest.raises(ValidationError, match="stop_if_return_drops"):
        Canary(checkpoint="v1", share=0.5, stop_if_return_drops=drop)
    assert Canary(checkpoint="v1", share=0.5, stop_if_return_drops=100.0).stop_if_return_drops == 100.0
