"""Makes trainers' environments: `python -m tests.trainers.environments FOLDER`, one for each Python that is here.

Each has what a trainer has, and then the package policy-saver, installed as anyone would install it.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.9", "3.10", "3.11")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# What `pip freeze` says of an environment before the saver is installed.
FROZEN = "frozen.txt"


def main(folder: Path) -> int:
    """Returns the exit status: 1 where there is no Python to make one of."""
    made = [folder / python for python in PYTHONS if _make(python, folder / python)]
    with tempfile.TemporaryDirectory() as dist:
        build = [Path(sys.executable).parent / "uv", "build", "--quiet", "--out-dir", dist, ROOT / "saver"]
        subprocess.run(build, check=True)
        (wheel,) = Path(dist).glob("*.whl")
        for home in made:
            _pip(home, "uninstall", "--quiet", "--yes", "policy-saver")
            _pip(home, "install", "--quiet", str(wheel))
    return 0 if made else 1


def frozen(home: Path) -> str:
    """What is installed, a line for each package."""
    return _pip(home, "freeze")


def _make(python: str, home: Path) -> bool:
    """Makes it anew where the requirements have changed since."""
    state, digest = home / "made-from", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if state.exists() and state.read_text() == digest and (home / FROZEN).exists():
        return True
    found = interpreter(python)
    if found is None:
        print(f"no Python {python} here: it is left out", file=sys.stderr)
        return False
    print(f"making {home}: some two minutes", file=sys.stderr)
    subprocess.run([found, "-m", "venv", "--clear", str(home)], check=True)
    _pip(home, "install", "--quiet", "--no-deps", "--requirement", str(REQUIREMENTS))
    (home / FROZEN).write_text(frozen(home))
    state.write_text(digest)
    return True


def _pip(home: Path, *arguments: str) -> str:
    command = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def interpreter(python: str) -> str | None:
    """Among those of pyenv, or on the path, where a name alone need not mean that it runs."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python"))
    for path in [*map(str, reversed(kept)), shutil.which(f"python{python}")]:
        if path is not None and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
