"""Clients of other protocols at pinned versions, in an environment of their own: `.clients`, made when it is needed.

`python -m tests.support.clients` makes it, as `make clients` does.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".clients"
LOCK = ROOT / "requirements-clients.lock"


class NoClients(Exception):
    """The environment is not there and cannot be made; the message says why."""


def python_of_clients() -> Path:
    """Returns the Python that has the clients; makes its environment where it is missing or stale.

    Raises:
      NoClients: that does not work, for want of an index of packages, say.
    """
    python, state = HOME / "bin" / "python", HOME / "made-from"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    HOME.mkdir(exist_ok=True)
    with (HOME / "being-made").open("w") as lock:  # uv has a .lock of its own there
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (state.exists() and state.read_text() == digest and python.exists()):
            _run("venv", "--quiet", "--allow-existing", "--python", sys.executable, str(HOME))
            _run("pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(LOCK))
            state.write_text(digest)
    return python


def _run(*words: str) -> None:
    done = subprocess.run([Path(sys.executable).parent / "uv", *words], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise NoClients(f"uv {words[0]}: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    print(python_of_clients())
