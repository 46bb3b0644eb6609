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
from collections.abc import Callable

from app import logs
from app.background import all_cores_are_wanted, give_way
from saver.stderr import hushed

# A server that has all that it serves in its state folder asks nothing of its builder. The import of TensorFlow, two
# seconds of a core, then waits until so many looks in succession have found a core that nobody wants, or for so many
# looks in all; it comes by itself, for the sake of the first swap.
_LOOK_S = 1.0
_FREE_LOOKS, _MOST_LOOKS = 5, 60


def main() -> None:
    """Serves the link with the given number, until its other end is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the control process says when to stop
    link, engine, level, form, os.environ["TMPDIR"] = sys.argv[1:]
    logs.configure(level, form, process="builder")
    give_way()  # first: the threads that TensorFlow starts do so too
    for kind in ("INTRA", "INTER"):  # one core at a time is enough for what nobody waits for
        os.environ.setdefault(f"TF_NUM_{kind}OP_THREADS", "1")
    if not waits_for_import(int(link)):
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


def waits_for_import(link: int, is_busy: Callable[[], bool] = all_cores_are_wanted, look_s: float = _LOOK_S) -> bool:
    """Waits for the first call, or for time to import TensorFlow; returns whether the link's other end is still there.

    `is_busy`: whether no core is free; it is asked every `look_s` seconds.
    """
    call = select.poll()
    call.register(link, select.POLLIN)
    free = 0
    for _ in range(_MOST_LOOKS):
        if events := call.poll(look_s * 1000):
            return not any(event & select.POLLHUP for _, event in events)
        free = 0 if is_busy() else free + 1
        if free == _FREE_LOOKS:
            break
    return True


def _end_with(link: int, imported: threading.Event) -> None:
    """Ends the process with its link while TensorFlow is being imported; after that asyncio does."""
    hang_up = select.poll()
    hang_up.register(link, 0)
    hang_up.poll()
    if not imported.is_set():
        os._exit(0)


if __name__ == "__main__":
    main()
