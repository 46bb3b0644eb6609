"""Observations [B, 4] → the service's answer, over one connection that is kept open."""

import time
from types import TracebackType
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from demo.records import Answer, DemoError

POLICY = "cartpole"
_TIMEOUT_S = 15.0  # longer than the server's own deadline of 10 s, so that it can answer


class RequestError(Exception):
    """A request that was not answered with 200 and an action for every row."""


class Client:
    """Asks one server. Every failure is an exception: nothing is tried again in secret."""

    def __init__(self, address: str, admin_token: str = "") -> None:
        self._http = httpx.Client(base_url=address, timeout=_TIMEOUT_S, trust_env=False)
        self._admin = {"Authorization": f"Bearer {admin_token}"}

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def act(self, observation: NDArray[np.float32]) -> Answer:
        """The service's action for each row. Raises RequestError."""
        body = self._post(f"/v1/policies/{POLICY}/action", {"observation": observation.tolist()})
        try:
            answer = Answer(
                action=np.asarray(body["action"], np.int64),
                logits=np.asarray(body["info"]["dist_params"]["logits"], np.float32),
                version=body["version"],
                train_step=body["train_step"],
                at=time.monotonic(),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RequestError(f"an answer without {error}: {str(body)[:200]}") from error
        rows = len(observation)
        if answer.action.shape != (rows,) or answer.logits.shape != (rows, 2):
            raise RequestError(
                f"{rows} rows were asked, actions {answer.action.shape} and logits {answer.logits.shape} came back"
            )
        return answer

    def pin(self, version: str) -> None:
        """Make the server serve this checkpoint and no other. Raises DemoError when refused."""
        path = f"/admin/policies/{POLICY}/reload"
        try:
            self._post(path, {"checkpoint": version}, headers=self._admin)
        except RequestError as failure:
            raise DemoError(f"the server did not reload checkpoint {version}: {failure}") from None

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        """The answer's JSON. Raises RequestError for any status but 200 or a broken exchange."""
        try:
            response = self._http.post(path, json=body, headers=headers)
            if response.status_code != 200:
                raise RequestError(f"{response.status_code}: {response.text[:200]}")
            return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RequestError(f"{type(error).__name__}: {error}") from error
