"""The builder process: `python -m app.builder LINK ENGINE LEVEL FORM FOLDER`, started by the control process.

FOLDER is for its temporary files, which hold weights: they go with it, however it ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import sys
import threading

from app import logs
from app.background import give_way
from saver.stderr import hushed

# A server that has all that it serves in its state folder asks nothing of its builder. The import of TensorFlow, two
# seconds of a core, then leaves the first seconds to the workers; it comes by itself, for the sake of the first swap.
_FIRST_CALL_S = 5.0


def main() -> None:
    """Serves the link with the given number, until its other end is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the control process says when to stop
    link, engine, level, form, os.environ["TMPDIR"] = sys.argv[1:]
    logs.configure(level, form, process="builder")
    give_way()  # first: the threads that TensorFlow starts do so too
    for kind in ("INTRA", "INTER"):  # one core at a time is enough for what nobody waits for
        os.environ.setdefault(f"TF_NUM_{kind}OP_THREADS", "1")
    if not _is_called(int(link)):
        return
    imported = threading.Event()
    threading.Thread(target=_end_with, args=(int(link), imported), daemon=True).start()
    gc.disable()  # it would look at TensorFlow's objects again and again, for a fifth of the import's time
    with hushed():
        from app.builder import process
    gc.freeze()
    gc.enable()
    imported.set()
    asyncio.run(process.serve(socket.socket(fileno=int(link)), engine))


def _is_called(link: int) -> bool:
    """Waits for the first call, or `_FIRST_CALL_S` seconds; returns whether the link's other end is still there."""
    call = select.poll()
    call.register(link, select.POLLIN)
    return not any(event & select.POLLHUP for _, event in call.poll(_FIRST_CALL_S * 1000))


def _end_with(link: int, imported: threading.Event) -> None:
    """Ends the process with its link while TensorFlow is being imported; after that asyncio does."""
    hang_up = select.poll()
    hang_up.register(link, 0)
    hang_up.poll()
    if not imported.is_set():
        os._exit(0)


if __name__ == "__main__":
    main()
