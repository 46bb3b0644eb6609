"""Makes trainers' environments: `python -m tests.trainers.environments FOLDER`, one for each Python that is here."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.9", "3.10", "3.11")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def main(folder: Path) -> int:
    """Returns the exit status: 1 where there is no Python to make one of."""
    made = [python for python in PYTHONS if _make(python, folder / python)]
    return 0 if made else 1


def _make(python: str, home: Path) -> bool:
    """Makes it anew where the requirements have changed since."""
    state, digest = home / "made-from", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if state.exists() and state.read_text() == digest:
        return True
    interpreter = _interpreter(python)
    if interpreter is None:
        print(f"no Python {python} here: it is left out", file=sys.stderr)
        return False
    print(f"making {home}: some two minutes", file=sys.stderr)
    subprocess.run([interpreter, "-m", "venv", "--clear", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)], check=True)
    state.write_text(digest)
    return True


def _interpreter(python: str) -> str | None:
    """Among those of pyenv, or on the path, where a name alone need not mean that it runs."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python"))
    for path in [*map(str, reversed(kept)), shutil.which(f"python{python}")]:
        if path is not None and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            return path
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
