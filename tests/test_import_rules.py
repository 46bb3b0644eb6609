"""The import rules of pyproject.toml: an import that breaks one is refused in whichever file it is planted."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each package, and the folder that it lies in.
PACKAGES = {"app": ".", "saver": ".", "policy_client": "client"}
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]


def modules(*packages: str) -> set[str]:
    """Dotted names of all modules of the packages; a package is named for its `__init__`."""
    names = set()
    for package in packages:
        above = ROOT / PACKAGES[package]
        for file in (above / package).rglob("*.py"):
            parts = file.relative_to(above).with_suffix("").parts
            names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def below(*packages: str) -> Callable[[str], bool]:
    """Whether a module is one of the packages or lies below one."""
    return lambda module: any(module == package or module.startswith(f"{package}.") for package in packages)


SEES_TENSORFLOW = below("app.builder", "app.engine.savedmodel")
SEES_FASTAPI = below("app.api")
# What is planted, in modules of which package, where it is allowed, and the rule that refuses it elsewhere.
PLANTED = [
    ("tensorflow", "app", SEES_TENSORFLOW, "TensorFlow only"),
    ("tf_agents", "app", below(), "TensorFlow only"),
    ("uvicorn", "app", SEES_FASTAPI, "FastAPI and uvicorn only in api"),
    ("fastapi", "app", SEES_FASTAPI, "FastAPI and uvicorn only in api"),
    ("saver.specs", "app", SEES_TENSORFLOW, "of saver only artifact"),
    ("tensorflow", "saver.artifact", below(), "saver.artifact does without"),
    ("app.errors", "saver", below(), "saver knows nothing of the server"),
    ("app.errors", "policy_client", below(), "client stands alone"),
    ("app.engine.base", "app.control", below(), "the control process answers no requests"),
    ("app.api.problems", "app.control", below(), "the control process answers no requests"),
    (
        "app.builder.builder",
        "app",
        below("app.__main__", "app.inspection", "app.replay", "app.builder"),
        "imports in app run downwards",
    ),
    (
        "app.control.manager",
        "app",
        below("app.__main__", "app.inspection", "app.replay", "app.control"),
        "imports in app run downwards",
    ),
    ("app.__main__", "app", below("app.__main__"), "imports in app run downwards"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package, above in PACKAGES.items():
        shutil.copytree(ROOT / above / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def refusal(root: Path) -> str:
    """What import-linter prints; asserts that it refuses something."""
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "500", "NO_COLOR": "1"}
    done = subprocess.run([*LINT, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def refused(root: Path, rule: str) -> set[str]:
    """The modules whose imports are refused by the rule that a name is part of."""
    output = refusal(root)
    broken = [contract for contract in names_of_contracts() if f"{contract} BROKEN" in " ".join(output.split())]
    assert [contract for contract in broken if rule in contract], output
    return set(re.findall(r"^\s*-?\s*&?\s*([\w.]+) -> ", output, re.MULTILINE))


def names_of_contracts() -> list[str]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [contract["name"] for contract in configuration["tool"]["importlinter"]["contracts"]]


def plant(root: Path, statement: str, into: Iterable[str]) -> None:
    for module in into:
        path = root.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        with file.open("a") as text:
            text.write(f"\n{statement}\n")


@pytest.mark.parametrize(
    ("planted", "package", "allowed", "rule"), PLANTED, ids=[f"{case[0]}-in-{case[1]}" for case in PLANTED]
)
def test_planted_import_is_refused_in_every_file(
    tree: Path, tmp_path: Path, planted: str, package: str, allowed: Callable[[str], bool], rule: str
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    into = {module for module in modules(*PACKAGES) if below(package)(module) and not allowed(module)}
    into -= {"app"} if "downwards" in rule else set()  # see test_app_itself_imports_nothing
    assert into
    plant(root, f"import {planted}", into)
    assert into - refused(root, rule) == set()


def test_module_without_a_room_is_refused(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tree, root)
    (root / "app" / "homeless.py").write_text("")
    assert "homeless" in refusal(root)


def test_app_itself_imports_nothing() -> None:
    tree = ast.parse((ROOT / "app" / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
