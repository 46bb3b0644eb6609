"""The bytes of each kind of request, and of an answer of the size that the server gives to it."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import orjson

JSON, BINARY = "application/json", "application/msgpack"
ROW, ROWS, STATE, IMAGES, BINARY_IMAGES = "row", "rows", "state", "images", "binary-images"
_ROWS, _IMAGES, _LSTM = 64, 8, 32
_IMAGE_SHAPE = (84, 84, 4)
_VERSION = {"version": "0000000700", "train_step": 700}


@dataclass(frozen=True)
class Payload:
    """A body as it is sent, and a constant answer; `rows` observations are in it.

    `fields`: of the request's head, beside those that every request has.
    """

    body: bytes
    answer: bytes
    media_type: str = JSON
    rows: int = 1
    fields: tuple[tuple[str, str], ...] = ()


def _row() -> Payload:
    return Payload(b'{"observation":[0.1,-0.2,0.3,-0.4]}', _answer({"action": 1}))


def _rows() -> Payload:
    body = orjson.dumps({"observation": [[_number() for _ in range(4)] for _ in range(_ROWS)]})
    return Payload(body, _answer({"action": [i % 2 for i in range(_ROWS)]}), rows=_ROWS)


def _state() -> Payload:
    """As in the midst of an episode: the state that the answer before gave is sent along."""
    state = [[_number(8) for _ in range(_LSTM)] for _ in range(2)]
    body = orjson.dumps({"observation": [0.1, -0.2, 0.3, -0.4], "policy_state": state})
    return Payload(body, _answer({"action": 1, "policy_state": state}))


def _images() -> Payload:
    height, width, depth = _IMAGE_SHAPE
    pixels = iter(_pixels())
    images = [[[[next(pixels) for _ in range(depth)] for _ in range(width)] for _ in range(height)] for _ in range(8)]
    return Payload(orjson.dumps({"observation": images}), _answer({"action": [0, 1] * 4}), rows=_IMAGES)


def _binary_images() -> Payload:
    tensor = {"dtype": "uint8", "shape": [_IMAGES, *_IMAGE_SHAPE], "data": _pixels()}
    actions = {"dtype": "int64", "shape": [_IMAGES], "data": bytes(8 * _IMAGES)}
    answer = msgspec.msgpack.encode({"action": actions, **_VERSION})
    return Payload(msgspec.msgpack.encode({"observation": tensor}), answer, BINARY, _IMAGES)


_MAKERS: dict[str, Callable[[], Payload]] = {
    ROW: _row,
    ROWS: _rows,
    STATE: _state,
    IMAGES: _images,
    BINARY_IMAGES: _binary_images,
}


@functools.cache
def payload(name: str) -> Payload:
    """The one of that name."""
    return _MAKERS[name]()


OIP_JSON, OIP_BINARY = "oip-json", "oip-binary"
# TensorFlow Serving's: a row of the only input, and one with every input of the signature, as its clients send it.
TFS_ROW, TFS_NAMED = "tfs-row", "tfs-named"
# The own route with the bytes that OpenPI sends; WebSockets that stay open; calls over HTTP/2.
MSGPACK, OPENPI, GRPC = "msgpack", "openpi", "grpc"
PROTOCOLS = (MSGPACK, OIP_JSON, OIP_BINARY, TFS_ROW, TFS_NAMED, OPENPI, GRPC)
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def in_protocol(asked: Payload, protocol: str, policy: str) -> tuple[str, Payload]:
    """The path and the payload that ask a policy the same in another protocol; `asked`: one observation as JSON."""
    numbers = orjson.loads(asked.body)["observation"]
    if protocol in (TFS_ROW, TFS_NAMED):
        named = {"0/step_type": 1, "0/reward": 0.0, "0/discount": 1.0, "0/observation": numbers}
        body = {"signature_name": "action", "instances": [numbers if protocol == TFS_ROW else named]}
        return f"/v1/models/{policy}:predict", replace(asked, body=orjson.dumps(body))
    if protocol in (MSGPACK, OPENPI, GRPC):
        return _binary(asked, protocol, policy, struct.pack(f"<{len(numbers)}f", *numbers), [len(numbers)])
    tensor = {"name": "0/observation", "shape": [1, len(numbers)], "datatype": "FP32"}
    path = f"/v2/models/{policy}/infer"
    if protocol == OIP_JSON:
        return path, replace(asked, body=orjson.dumps({"inputs": [{**tensor, "data": numbers}]}))
    blob = struct.pack(f"<{len(numbers)}f", *numbers)
    tensor["parameters"] = {"binary_data_size": len(blob)}
    text = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    length = (("Inference-Header-Content-Length", str(len(text))),)
    return path, replace(asked, body=text + blob, media_type="application/octet-stream", fields=length)


def _binary(asked: Payload, protocol: str, policy: str, data: bytes, shape: list[int]) -> tuple[str, Payload]:
    if protocol == MSGPACK:
        body = msgspec.msgpack.encode({"observation": {"dtype": "float32", "shape": shape, "data": data}})
        return f"/v1/policies/{policy}/action", replace(asked, body=body, media_type=BINARY)
    if protocol == OPENPI:
        array = {b"__ndarray__": True, b"data": data, b"dtype": "<f4", b"shape": shape}
        return f"/v1/policies/{policy}/openpi", replace(asked, body=msgspec.msgpack.encode({"observation": array}))
    # A `ModelInferRequest` (app/dialects/open_inference_messages.py); each part is its tag, its length and its bytes.
    tensor = _part(1, b"0/observation") + _part(2, b"FP32") + _part(3, bytes((1, *shape)))
    return GRPC_METHOD, replace(asked, body=_part(1, policy.encode()) + _part(5, tensor) + _part(7, data))


def _part(number: int, data: bytes) -> bytes:
    return bytes((number << 3 | 2, len(data))) + data


_random = random.Random(0)


def _number(digits: int = 4) -> float:
    return round(_random.uniform(-1, 1), digits)


@functools.cache
def _pixels() -> bytes:
    height, width, depth = _IMAGE_SHAPE
    return _random.randbytes(_IMAGES * height * width * depth)


def _answer(parts: dict[str, object]) -> bytes:
    return orjson.dumps({**parts, **_VERSION})
