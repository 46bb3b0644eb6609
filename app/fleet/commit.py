"""How a swap is agreed on with other servers: by a commit in two phases, or not at all where there is only this one."""

from __future__ import annotations

from app.artifacts.records import Pin, VersionRecord


class CommitProtocol:
    """The part of a swap that concerns other servers, in the order of its methods. One change at a time.

    By itself it is that of one server, which has nobody to wait for.

    `alone`: there are no others, and nothing has to be held.
    """

    alone = True

    async def begin(self) -> None:
        """Returns when this server may change what serves.

        Raises:
          Busy: another server does; see `free`.
          FleetLost: the others cannot be reached.
        """

    async def announce(self, record: VersionRecord) -> None:
        """Has the others prepare a version, which lies here; SwapRefused where that cannot be."""

    async def prepared(self, record: VersionRecord) -> None:
        """Returns when the others have prepared the version, as this server has; SwapRefused where one cannot."""

    async def held(self) -> None:
        """Returns when the version is committed: no server answers now. SwapRefused where it is not to be."""

    async def switched(self) -> None:
        """Returns when the others serve it too, as this server does."""

    async def agree(self, served: tuple[VersionRecord, ...], pin: Pin | None, traffic: str) -> None:
        """Returns when the others have recorded which versions served and the pin, and try what this server tries.

        `traffic`: see `app.fleet.protocol.Committed`.
        """

    async def end(self) -> None:
        """Ends the change: another server may begin one."""

    async def free(self) -> None:
        """Returns when no other server changes anything; FleetLost where one does for minutes without a step."""
