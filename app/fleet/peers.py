"""What members ask each other over HTTP: whether Redis is gone for all, and to find, take or reload a checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from app.errors import NotReady, Refusal, SwapRefused, UnknownVersion
from app.fleet.store import Member

_PATIENCE_S = 1.0
# While a member fetches a checkpoint from the others.
_UPLOAD_S = 60.0
# While a member scans a folder with thousands of checkpoints.
_FIND_S = 10.0


class Answer(msgspec.Struct, frozen=True):
    """What a member says at /readyz: whether it reaches Redis, and the epoch that it serves of each policy."""

    member: str
    reaches: bool
    applied: dict[str, int]


class _Ready(msgspec.Struct, frozen=True):
    fleet: Answer


class _Found(msgspec.Struct, frozen=True):
    train_step: int | None


# What another member has answered, as this one does; anything else is a refusal.
_REFUSALS: dict[int, type[Refusal]] = {404: UnknownVersion, 503: NotReady}


async def ask_peers(peers: Sequence[Member]) -> list[Answer]:
    """Returns what those of the members say that answer."""
    async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
        asked = [asyncio.create_task(_ask(client, peer)) for peer in peers]
        # Together: the lease is renewed between two rounds of this, and a member may answer byte by byte.
        done, late = await asyncio.wait(asked, timeout=2 * _PATIENCE_S) if asked else (set(), set())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    return [answer for task in done if (answer := task.result()) is not None]


def redis_is_gone(peers: int, answers: Sequence[Answer], applied: Mapping[str, int]) -> bool:
    """Returns whether it may be taken for gone: nobody can commit anything, and what serves may serve on.

    That is so where more than half of the members that were known, this one among them, answer, none of them reaches
    Redis, and none serves something later.
    """
    if 2 * (len(answers) + 1) <= peers + 1:
        return False
    return not any(
        answer.reaches or any(answer.applied.get(policy, 0) > epoch for policy, epoch in applied.items())
        for answer in answers
    )


async def post_to_all(urls: Iterable[str], path: str, body: dict[str, str], secret: str) -> dict[str, str]:
    """Posts to members; returns the reasons of those that have refused, or have not answered, by their URLs."""
    async with _client(_UPLOAD_S, secret) as client:
        asked = list(urls)
        found = await asyncio.gather(*(_post(client, url + path, body) for url in asked))
    return {url: reason for url, reason in zip(asked, found, strict=True) if reason}


async def find_newest(urls: Iterable[str], path: str, name: str | None, secret: str) -> tuple[str, int | None]:
    """Asks members for the train step of a checkpoint in their folders; returns the highest, and whose it is."""
    async with _client(_FIND_S, secret) as client:
        asked = list(urls)
        found = await asyncio.gather(*(_find(client, url + path, name) for url in asked))
    steps = [(step, url) for url, step in zip(asked, found, strict=True) if step is not None]
    step, url = max(steps, default=(None, ""))
    return url, step


async def reload_at(url: str, name: str | None, secret: str) -> dict[str, Any] | None:
    """Has a member reload; returns the fields of its answer, None where it cannot be reached.

    Raises:
      SwapRefused: the checkpoint may not serve.
      UnknownVersion: it is gone.
      NotReady: nothing can be changed now.
    """
    async with _client(None, secret) as client:
        try:
            response = await client.post(url, json={"checkpoint": name})
            answer: dict[str, Any] = response.json()
        except Exception:  # as in `_ask`
            return None
    if response.is_success:
        return answer
    detail = str(answer.get("detail", f"status {response.status_code}"))
    raise _REFUSALS.get(response.status_code, SwapRefused)(detail)


def _client(timeout_s: float | None, secret: str) -> httpx.AsyncClient:
    """Returns a client that the other members know by the fleet's secret."""
    return httpx.AsyncClient(timeout=timeout_s, trust_env=False, headers={"Authorization": f"Bearer {secret}"})


async def _find(client: httpx.AsyncClient, url: str, name: str | None) -> int | None:
    try:
        response = await client.post(url, json={"checkpoint": name})
        return msgspec.json.decode(response.content, type=_Found).train_step if response.is_success else None
    except Exception:  # as in `_ask`
        return None


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, str]) -> str:
    try:
        response = await client.post(url, json=body)
    except Exception as error:  # as in `_ask`
        return str(error) or type(error).__name__
    return "" if response.is_success else response.text[:300]


async def _ask(client: httpx.AsyncClient, peer: Member) -> Answer | None:
    try:
        response = await client.get(f"{peer.url}/readyz")
        found = msgspec.json.decode(response.content, type=_Ready).fleet
    except Exception:  # a URL that somebody else has written fails in more ways than a client lists
        return None
    return found if found.member == peer.id else None
