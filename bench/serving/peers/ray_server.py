"""Ray Serve: one replica, requests batched by its decorator, Ray itself on this machine only."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from policy import MOST_REQUESTS, Policy
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
class Small:
    """The one route."""

    def __init__(self) -> None:
        self.policy = Policy()

    @serve.batch(max_batch_size=MOST_REQUESTS, batch_wait_timeout_s=0)
    async def together(self, requests: list[Any]) -> list[Any]:
        """What has come meanwhile."""
        return self.policy.together(requests)

    async def __call__(self, request: Request) -> JSONResponse:
        """One request. A response with a length: what has none is sent in chunks."""
        return JSONResponse({"action": await self.together((await request.json())["observation"])})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1]), "access_log": False})
    serve.run(Small.bind(), route_prefix="/")
    signal.pause()
