"""Requests in other servers' protocols: the cycle of one, on the fast path and behind the framework alike."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request, Response

from app.api.body_bytes import read_body
from app.api.endpoint import AwaitedAnswer, answered
from app.api.problems import error_response
from app.api.request_cycle import FastPathCycle, Route
from app.api.timed import timed_for_task
from app.dialects.calls import Reply
from app.inference.service import Service


class ForeignCycle(FastPathCycle):
    """One request whose answer is a `Reply`, and whose errors are {"error": text}."""

    def _problem(self, error: Exception) -> Response:
        return error_response(error)

    def answer(self, body: Any) -> None:
        """See `RequestCycle`."""
        reply: Reply = body
        self._end(200)
        self._receiver.write_answer(reply.head, reply.body)


class AwaitedReply(AwaitedAnswer):
    """Takes the answer of a `ForeignCycle`, for the endpoint that awaits `response`."""

    def write_answer(self, media_type: bytes, body: bytes) -> None:
        """See `Receiver`; `media_type` is the head of a `Reply`."""
        first, *others = media_type.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in others)
        self.write_response(Response(body, headers=headers, media_type=first))


async def answer_by(request: Request, service: Service, route: Route, answer: AwaitedReply) -> Response:
    """Answers a request by a route whose `cycle` is a `ForeignCycle`."""
    cycle = route.cycle(timed_for_task(route), answer)
    try:
        body = await read_body(request, route.large.limit, service.timeout_s(None))
    except Exception as error:
        cycle.set_exception(error)
    else:
        cycle.ask(service, body, asyncio.get_running_loop().time())
    return await answered(request, cycle, answer)
