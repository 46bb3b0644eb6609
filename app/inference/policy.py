"""One policy that is served, with all its parts."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from app.batching.batcher import Batcher
from app.batching.rule import INITIAL_STATE
from app.inference.response import ResponseTemplates
from app.inputs.typed import TypedDecoder
from app.inputs.validate import InputValidator
from app.metrics import PolicyMetrics
from app.rpc.control import RemoteManager
from app.traffic.arms import Arms
from app.uploads.upload import Uploads
from app.versions.active import LoadedVersions
from app.wire.codecs import JSON, Codec
from app.wire.limits import SMALL_BYTES, largest_bodies
from saver.artifact import PolicySpec, ServingInfo


@dataclass(frozen=True)
class Policy:
    """The parts; `templates` are those of its answers."""

    name: str
    spec: PolicySpec
    serving: ServingInfo
    typed_decoder: TypedDecoder
    reader: InputValidator
    templates: ResponseTemplates
    versions: LoadedVersions
    arms: Arms
    manager: RemoteManager
    batcher: Batcher
    metrics: PolicyMetrics
    uploads: Uploads
    # 0: as much as the largest batch takes.
    body_limit_bytes: int = 0

    def body_limit(self, route: str, codec: Codec) -> int:
        """Returns how many bytes a request to a route may have."""
        if route == INITIAL_STATE:
            return min(SMALL_BYTES, self.body_limit_bytes or SMALL_BYTES)
        return self.body_limit_bytes or self._largest_batch[codec is JSON]

    @functools.cached_property
    def _largest_batch(self) -> tuple[int, int]:
        return largest_bodies(self.spec.inputs, self.reader.rows_limit)
