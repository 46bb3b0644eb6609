"""The recorder process as control keeps it: started, watched, and replaced, with the policies that there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from app.artifacts.temporary import emptied
from app.control.manager import Manager
from app.errors import LinkLost
from app.metrics import Metrics
from app.rpc.child import Child, Keeper
from app.rpc.messages import ExperienceFigures, RecorderSettings
from app.settings import Settings

# It takes in what the journals have, and no more.
_END_S = 5.0


class RecorderProcess:
    """The recorder of a server; its socket lies in `folder`, which no other user can open."""

    def __init__(self, settings: Settings, folder: Path, managers: Mapping[str, Manager], metrics: Metrics) -> None:
        self._settings = settings
        self._managers = managers
        self.folder = folder
        self._child: Child | None = None
        self.keeper = Keeper(
            "the recorder process",
            self._start,
            self._prepare,
            lambda child: child.end(_END_S),
            lambda _: metrics.restarted("recorder"),
        )

    async def start(self) -> None:
        """Starts it. The policies that are open are recorded."""
        await self.keeper.start()

    async def add(self, policy: str) -> None:
        """Has a policy recorded that has been opened since."""
        if self._child is not None:
            with contextlib.suppress(LinkLost):  # the next one learns of it as it starts
                await self._open(self._child, policy)

    async def _start(self) -> Child:
        await asyncio.to_thread(emptied, self.folder)
        arguments = (self._settings.log_level, self._settings.log_format, str(self.folder))
        stalled_s = self._settings.stalled_s
        return await Child.start("app.experience.recorder", arguments, {}, stalled_s=stalled_s)

    async def _prepare(self, child: Child) -> None:
        self._child = child
        settings = self._settings
        limits = (settings.experience_bytes_limit, settings.experience_segment_bytes, settings.experience_segment_s)
        folder = Path(settings.experience_dir).absolute()
        await child.call("open", RecorderSettings(folder, *limits, len(settings.policies)))
        for policy in list(self._managers):
            await self._open(child, policy)
        child.watch("alive")

    async def _open(self, child: Child, policy: str) -> None:
        with self._managers[policy].admission.offered() as (_, graph, _):
            if graph.spec.takes_time_step:
                await child.call("open_policy", policy, graph.spec)

    async def figures(self) -> dict[str, ExperienceFigures]:
        """See `Recorder.figures`; nothing while there is none."""
        if self._child is None:
            return {}
        try:
            found: dict[str, ExperienceFigures] = await self._child.link.call("figures")
            return found
        except LinkLost:
            return {}
