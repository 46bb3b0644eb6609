"""LitServe: requests are batched by the library, in a process of its own that runs the policy."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from policy import MOST_REQUESTS, WAIT_S, Policy


class Action(litserve.LitAPI):
    """What the library calls, in this order."""

    def setup(self, device: str) -> None:  # noqa: ARG002, D102
        self.policy = Policy()

    # Without a type for the request: the library reads it, and makes a route of it.
    def decode_request(self, request, **_: Any) -> Any:  # type: ignore[no-untyped-def] # noqa: D102
        return request["observation"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """They stay apart: some are one observation, some several."""
        return list(inputs)

    def predict(self, x: list[Any], **_: Any) -> list[Any]:  # noqa: D102
        return self.policy.together(x)

    def unbatch(self, output: list[Any]) -> list[Any]:  # noqa: D102
        return output

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:  # noqa: D102
        return {"action": output}


if __name__ == "__main__":
    api = Action(max_batch_size=MOST_REQUESTS, batch_timeout=WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
