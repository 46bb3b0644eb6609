"""uvicorn, stopped from outside: its own signal handling would end the process by the signal."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.api.protocol import FastPathProtocol
from app.sockets import accept_waiting


class HttpServer(uvicorn.Server):
    """Serves `app` between `start` and `stop`. `protocol`: that of its connections, see `protocol_with`.

    `grace_s`: how long what was accepted has to be answered, once it stops. `trusted_proxies`: addresses whose
    X-Forwarded-For is believed.
    """

    def __init__(
        self,
        app: FastAPI,
        protocol: Any,
        root_path: str,
        grace_s: int,
        *,
        trusted_proxies: str,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            # Else any client could claim another's address.
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=trusted_proxies,
            root_path=root_path,
            timeout_graceful_shutdown=grace_s,
        )
        super().__init__(config)
        self._connection = partial(protocol, config=config, server_state=self.server_state, app_state={})
        self._listening = asyncio.Event()
        self._serving: asyncio.Task[None]

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Returns when connections are accepted.

        Raises:
          OSError: another server listens there.
        """
        self._serving = asyncio.create_task(self.serve(sockets=list(listeners)))
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not self._listening.is_set():
            listening.cancel()
            await self._serving

    async def stop(self) -> None:
        """Takes nothing new, and returns when what was accepted is answered."""
        self.should_exit = True
        await self._serving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts the connections that wait, and continues as uvicorn does, which would reset them."""
        loop = asyncio.get_running_loop()
        for connection in [one for listener in sockets or [] for one in accept_waiting(listener)]:
            try:
                await loop.connect_accepted_socket(self._last_connection, connection)
            except OSError:  # it has gone meanwhile
                connection.close()
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # only now are the last that uvicorn has accepted among its connections
        await super().shutdown(sockets)

    def _last_connection(self) -> FastPathProtocol:
        connection: FastPathProtocol = self._connection()
        connection.shutdown()
        return connection

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts as uvicorn does, and then reports that it listens."""
        await super().startup(sockets)
        self._listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the process: exit status 0 is promised after SIGTERM."""
        yield
