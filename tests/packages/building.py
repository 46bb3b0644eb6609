"""Builds packages, and makes environments with them, with uv, which brings nothing of this environment along."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.server import ROOT
from tests.trainers.environments import interpreter

UV = Path(sys.executable).parent / "uv"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Environment:
    """An environment made from nothing; programs run in it from a folder that is not the project's."""

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def run(self, *command: object, cwd: Path | str = "/", **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment's `bin`, with hardly a variable."""
        program, *arguments = map(str, command)
        bare = {"PATH": "/usr/bin:/bin", "NO_PROXY": "*", "HOME": str(cwd)}
        words = [str(self.home / "bin" / program), *arguments]
        return subprocess.run(words, cwd=cwd, env=bare | env, capture_output=True, text=True, timeout=600)

    def printed(self, *command: object, cwd: Path | str = "/", **env: str) -> str:
        """What a program prints that must not fail."""
        done = self.run(*command, cwd=cwd, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def packages(self) -> dict[str, str]:
        """Versions by name."""
        lines = uv("pip", "freeze", "--python", self.python).splitlines()
        pairs = [line.replace(" @ ", "==").split("==", 1) for line in lines]
        return {name.lower(): version for name, version in pairs}

    def install(self, *requirements: object) -> None:
        uv("pip", "install", "--quiet", "--python", self.python, *requirements)


class Environments:
    """Makes environments, with a package or without."""

    def __init__(self, packages: dict[str, Built], folder: Path) -> None:
        self._packages = packages
        self._folder = folder

    def wheel(self, package: str) -> Path:
        return self._packages[package].wheel

    def empty(self, python: str = HERE, name: str = "") -> Environment:
        """With nothing in it.

        Raises:
          LookupError: the machine has no such Python, and uv can fetch none.
        """
        home = self._folder / f"{python}-{name or len(list(self._folder.iterdir()))}"
        known = sys.executable if python == HERE else interpreter(python)
        done = _uv("venv", "--quiet", "--python", known or python, home)
        if done.returncode != 0:
            raise LookupError(f"no Python {python} here, and uv cannot fetch one: {done.stderr.strip()[-200:]}")
        return Environment(home)

    def having(self, package: str, python: str = HERE, extra: str = "", more: Sequence[str] = ()) -> Environment:
        """With `client` or `saver` in it, an extra of it, and other requirements; no package is built from its sources.

        Raises:
          LookupError: see `empty`.
        """
        environment = self.empty(python)
        wheel = self._packages[package].wheel
        environment.install("--only-binary", ":all:", f"{wheel}[{extra}]" if extra else wheel, *more)
        return environment


def built(name: str, folder: Path) -> Built:
    """Builds the sdist of a folder of the project, and the wheel from that sdist."""
    uv("build", "--quiet", "--out-dir", folder, ROOT / name)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def unreachable() -> str:
    """Why nothing can be had from PyPI; "" where it can."""
    done = _uv("pip", "compile", "--quiet", "--no-header", "-", given="hatchling>=1.27\ntwine\nhttpx\nmsgspec\nnumpy\n")
    return done.stderr.strip()[-300:] if done.returncode != 0 else ""


def uv(*arguments: object) -> str:
    done = _uv(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _uv(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    words = [str(UV), *map(str, arguments)]
    return subprocess.run(words, cwd="/", env=env, input=given, capture_output=True, text=True, timeout=600)
