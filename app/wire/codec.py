"""What reads the bodies of one media type and writes answers in it, as one thing that can be passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.wire import json_body


@dataclass(frozen=True)
class Codec:
    """`decode`: bytes → fields, perhaps with arrays at the leaves. `encode`: a structure with arrays there → bytes."""

    media_type: str
    decode: Callable[[bytes], dict[str, Any]]
    encode: Callable[[Any], bytes]
    is_json: bool = False


JSON = Codec("application/json", json_body.decode, json_body.encode, is_json=True)
