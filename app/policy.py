"""One policy that is served, with all its parts."""

from __future__ import annotations

from dataclasses import dataclass

from app.answers import Forms
from app.batching.batcher import Batcher
from app.metrics import PolicyMetrics
from app.quick import QuickReader
from app.swap.copies import Copies
from app.swap.remote import RemoteManager
from app.swap.upload import Uploads
from app.validate import InputReader
from saver.artifact import PolicySpec, ServingInfo


@dataclass(frozen=True)
class Policy:
    """The parts; `forms` are those of its answers."""

    name: str
    spec: PolicySpec
    serving: ServingInfo
    quick_reader: QuickReader
    reader: InputReader
    forms: Forms
    copies: Copies
    manager: RemoteManager
    batcher: Batcher
    metrics: PolicyMetrics
    uploads: Uploads
