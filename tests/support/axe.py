"""axe-core, which finds what keeps people from using a page: npm's package at a pinned version, in `.axe`.

`python -m tests.support.axe` gets it, as `make axe` does. It is no part of the repository: half a megabyte, MPL-2.0.
"""

import base64
import fcntl
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
HOME = Path(__file__).parents[2] / ".axe"
SCRIPT = HOME / f"axe-{VERSION}.min.js"


class NoAxe(Exception):
    """It is not there and cannot be had; the message says why."""


def axe() -> str:
    """Returns the script; gets it where it is missing.

    Raises:
      NoAxe: that does not work, for want of npm or of its registry, say.
    """
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not SCRIPT.exists():
            SCRIPT.write_bytes(_script())
    return SCRIPT.read_text()


def _script() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise NoAxe("there is no npm on this machine")
    words = [npm, "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(HOME)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=HOME)
    archive = HOME / f"axe-core-{VERSION}.tgz"
    if done.returncode or not archive.exists():
        raise NoAxe(f"npm pack: {done.stderr.strip()[-300:]}")
    try:
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            raise NoAxe(f"axe-core {VERSION} has the SHA-512 {found}, not the pinned one")
        with tarfile.open(archive) as files:
            member = files.extractfile("package/axe.min.js")
            assert member is not None
            return member.read()
    finally:
        archive.unlink()


if __name__ == "__main__":
    axe()
    print(SCRIPT)
