"""Runs in the environment of the clients (tests/support/clients.py): calls from standard input → what came, as JSON.

`foreign_client.py CLIENT ADDRESS`, CLIENT one of triton-http, triton-grpc, kserve, openpi. A call is {"do": what, …};
arrays are {"dtype", "shape", "data": base64}, strings lists of them.
"""

import asyncio
import base64
import json
import queue
import sys
from typing import Any

import numpy as np

DATATYPES = {
    "bool": "BOOL",
    "object": "BYTES",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def array_of(given: Any) -> np.ndarray:
    if isinstance(given, list):
        return np.array(given, object)
    return np.frombuffer(base64.b64decode(given["data"]), given["dtype"]).reshape(given["shape"])


def as_json(array: np.ndarray) -> Any:
    if array.dtype.kind == "O":
        return [item.decode() for item in array.reshape(-1)]
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


class Triton:
    """Either of Triton's clients: they have the same methods."""

    def __init__(self, kind: str, address: str) -> None:
        if kind == "http":
            import tritonclient.http as module
        else:
            import tritonclient.grpc as module
        self.kind, self.module = kind, module
        self.client = module.InferenceServerClient(address)

    def infer(self, call: dict[str, Any]) -> Any:
        return self._result(self.client.infer(**self._arguments(call)))

    def infer_async(self, call: dict[str, Any]) -> Any:
        """The same call several times at once."""
        arguments = self._arguments(call)
        if self.kind == "http":
            return [self._result(one.get_result()) for one in [self.client.async_infer(**arguments) for _ in range(4)]]
        done: queue.Queue[Any] = queue.Queue()
        for _ in range(4):
            self.client.async_infer(callback=lambda result, error: done.put((result, error)), **arguments)
        found = [done.get(timeout=60) for _ in range(4)]
        for _, error in found:
            if error is not None:
                raise error
        return [self._result(result) for result, _ in found]

    def call(self, call: dict[str, Any]) -> Any:
        """Any other method."""
        more = (
            {}
            if self.kind == "http" or call["method"].startswith("is_") or call["method"] == "load_model"
            else {"as_json": True}
        )
        headers = call.get("headers")
        if headers and self.kind == "grpc":
            headers = {name.lower(): value for name, value in headers.items()}
        return getattr(self.client, call["method"])(*call.get("arguments", []), headers=headers, **more)

    def _arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        binary = call.get("binary", True)
        options = {"binary_data": binary} if self.kind == "http" else {}
        inputs = []
        for name, given in call["inputs"].items():
            array = array_of(given)
            tensor = self.module.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
            tensor.set_data_from_numpy(array, **options)
            inputs.append(tensor)
        outputs = [self.module.InferRequestedOutput(name, **options) for name in call.get("outputs", [])]
        more = {
            key: call[key]
            for key in ("sequence_id", "sequence_start", "sequence_end", "timeout", "parameters")
            if key in call
        }
        if "compression" in call and self.kind == "http":
            more["request_compression_algorithm"] = call["compression"]
        more["model_version"] = call.get("version", "")
        more["request_id"] = call.get("id", "")
        return {"model_name": call["model"], "inputs": inputs, "outputs": outputs or None, **more}

    def _result(self, result: Any) -> Any:
        response = result.get_response() if self.kind == "http" else result.get_response(as_json=True)
        return {
            "outputs": {one["name"]: as_json(result.as_numpy(one["name"])) for one in response["outputs"]},
            "model_name": response["model_name"],
            "model_version": response["model_version"],
            "id": response.get("id", ""),
            "parameters": response.get("parameters", {}),
        }


class KServe:
    """KServe's REST client."""

    def __init__(self, kind: str, address: str) -> None:
        from kserve import InferenceRESTClient, RESTConfig

        self.client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
        self.url = f"http://{address}"
        self.loop = asyncio.new_event_loop()

    def infer(self, call: dict[str, Any]) -> Any:
        from kserve import InferInput, InferRequest

        inputs = []
        for name, given in call["inputs"].items():
            array = array_of(given)
            tensor = InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
            tensor.set_data_from_numpy(array, binary_data=call.get("binary", True))
            inputs.append(tensor)
        request = InferRequest(call["model"], inputs, request_id=call.get("id"), parameters=call.get("parameters"))
        response = self._run(self.client.infer(self.url, request, model_name=call["model"]))
        outputs = {one.name: as_json(one.as_numpy()) for one in response.outputs}
        return {
            "outputs": outputs,
            "model_name": response.model_name,
            "model_version": response.model_version,
            "id": response.id,
        }

    def call(self, call: dict[str, Any]) -> Any:
        return self._run(getattr(self.client, call["method"])(self.url, *call.get("arguments", [])))

    def _run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)


class OpenPi:
    """OpenPI's `WebsocketClientPolicy`. A call names its path; calls to the same one go over the same connection."""

    def __init__(self, kind: str, address: str) -> None:
        self.address = address
        self.policies: dict[str, Any] = {}

    def infer(self, call: dict[str, Any]) -> Any:
        return _shown(self._policy(call).infer(_nest_of(call["observation"])))

    def metadata(self, call: dict[str, Any]) -> Any:
        return _shown(self._policy(call).get_server_metadata())

    def drop(self, call: dict[str, Any]) -> Any:
        """Leaves the connection, without a word."""
        self.policies.pop(call["path"])._ws.socket.close()

    def wrong(self, call: dict[str, Any]) -> Any:
        """What the client raises."""
        try:
            self.infer(call)
        except RuntimeError as error:
            return str(error)

    def _policy(self, call: dict[str, Any]) -> Any:
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        path, host, port = call["path"], *self.address.split(":")
        if path not in self.policies:
            where = (host, int(port)) if path == "/" else (f"ws://{self.address}{path}", None)
            self.policies[path] = WebsocketClientPolicy(*where, api_key=call.get("key"))
        return self.policies[path]


def _nest_of(given: Any) -> Any:
    if isinstance(given, dict) and given.keys() == {"dtype", "shape", "data"}:
        return array_of(given)
    if isinstance(given, dict):
        return {key: _nest_of(item) for key, item in given.items()}
    return [_nest_of(item) for item in given] if isinstance(given, list) else given


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return as_json(value) if isinstance(value, np.ndarray) else value


def main() -> None:
    kind, address = sys.argv[1:]
    kinds = {"kserve": KServe, "openpi": OpenPi}
    client: Any = kinds.get(kind, Triton)(kind.partition("-")[2], address)
    answers = []
    for call in json.load(sys.stdin):
        try:
            answers.append(getattr(client, call.pop("do"))(call))
        except Exception as error:
            status = getattr(error, "status", lambda: "")
            answers.append({"error": str(error), "status": status() if callable(status) else str(status)})
    json.dump(answers, sys.stdout, default=str)


if __name__ == "__main__":
    main()
