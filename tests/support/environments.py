"""A folder with some installed packages and what they need, for programs that may not see the rest."""

import re
from importlib.metadata import distribution
from pathlib import Path


def packages_of(name: str, folder: Path) -> Path:
    """Fills `folder` with links to the package `name` and everything that it requires."""
    for needed in _closure(name):
        files = distribution(needed).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(distribution(needed).locate_file(top))))
    return folder


def _closure(name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop().lower()
        if current in found:
            continue
        found.add(current)
        for requirement in distribution(current).requires or []:
            needed, _, condition = requirement.partition(";")
            if "extra" not in condition and _installed(short := re.split(r"[ <>=!~\[(]", needed.strip())[0]):
                waiting.append(short)
    return found


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True
