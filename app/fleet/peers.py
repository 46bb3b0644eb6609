"""What the other members say while Redis cannot be reached: whether it is gone for all, or for this one alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx
import msgspec

from app.fleet.store import Member

_PATIENCE_S = 1.0


class Answer(msgspec.Struct, frozen=True):
    """What a member says at /readyz: whether it reaches Redis, and the epoch that it serves of each policy."""

    member: str
    reaches: bool
    applied: dict[str, int]


class _Ready(msgspec.Struct, frozen=True):
    fleet: Answer


async def ask_peers(peers: Sequence[Member]) -> list[Answer]:
    """Returns what those of the members say that answer."""
    async with httpx.AsyncClient(timeout=_PATIENCE_S, trust_env=False) as client:
        found = await asyncio.gather(*(_ask(client, peer) for peer in peers))
    return [answer for answer in found if answer is not None]


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


async def _ask(client: httpx.AsyncClient, peer: Member) -> Answer | None:
    try:
        response = await client.get(f"{peer.url}/readyz")
        found = msgspec.json.decode(response.content, type=_Ready).fleet
    except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError):
        return None
    return found if found.member == peer.id else None
