"""The fast set, `pytest --fast`: tests that need neither TensorFlow nor a server. No list says which: imports do.

A test file is in it unless it, or a module of this repository that it imports, imports TensorFlow or starts programs.
A test with a fixture that imports such things is not. `keep_out` makes a wrong guess an error.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "bench", "client", "demo", "examples", "policy_client", "saver", "tests")
TENSORFLOW = frozenset({"tensorflow", "tensorflow_probability", "tf_agents", "tf_keras"})
# `saver.PolicySaver` is imported with TensorFlow, but when it is first asked for. Gymnasium and what builds programs
# take seconds.
SLOW = TENSORFLOW | {"saver.PolicySaver", "subprocess", "app.testing", "gymnasium", "tests.support.server.serving"}


def is_fast(file: Path) -> bool:
    """Whether a test file, with all that it imports, at whatever place in it, is in the fast set.

    A conftest.py counts as what it imports at once: its fixtures are looked at one by one.
    """
    return not _needs_more(_imported(file, everywhere=file.name != "conftest.py"))


def _needs_more(names: frozenset[str]) -> bool:
    """Whether one of these modules, or one that a module of this repository imports for its import, is slow."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        if name in SLOW or name.partition(".")[0] in SLOW:
            return True
        # What tests/support/server.py itself needs is no server yet.
        if (module := _file_of(name)) and not name.startswith("tests.support.server"):
            left += _imported(module, everywhere=False)
    return False


@cache
def _imported(file: Path, everywhere: bool) -> frozenset[str]:
    """What a module imports: when it is imported, or at whatever place."""
    tree = ast.parse(file.read_text())
    return _names(ast.walk(tree) if everywhere else _at_import(tree.body))


def _names(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Dotted names of what is imported, and of the packages above; what is taken out of a module counts as one."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return frozenset(".".join(one[:count]) for one in parts for count in range(1, len(one) + 1))


def _at_import(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements that run when a module is imported."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            found += _at_import(node.orelse)
            continue
        found.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for part in ("body", "orelse", "finalbody"):
            found += _at_import(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            found += _at_import(handler.body)
    return found


@cache
def _file_of(name: str) -> Path | None:
    """The file of a module of this repository; None for others."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    paths = [folder.joinpath(*name.split(".")) for folder in (ROOT, ROOT / "client")]
    candidates = (file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py"))
    return next((file for file in candidates if file.is_file()), None)


def keep_out() -> None:
    """Makes importing TensorFlow in this process, and starting one of our programs from it, an error."""
    for name in TENSORFLOW:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.addaudithook(_refuse_programs)


def _refuse_programs(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen":
        words = [str(word) for word in arguments[1]] if isinstance(arguments[1], list | tuple) else []
        if "app" in words or "saver" in words:
            raise AssertionError(f"the fast set starts no server: {words}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out files that are not in the set, and folders whose conftest.py could not be in it."""
    if not config.getoption("--fast"):
        return None
    if collection_path.is_dir():
        needed = collection_path / "conftest.py"
        return None if collection_path == ROOT / "tests" or not needed.exists() or is_fast(needed) else True
    return None if collection_path.suffix != ".py" or is_fast(collection_path) else True


def chosen(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those of which no fixture imports something slow."""
    return [item for item in items if not any(_is_slow(fixture) for fixture in _fixtures(item))]


def _fixtures(item: pytest.Item) -> list[Callable[..., object]]:
    """The functions of all fixtures that a test uses."""
    found = getattr(item, "_fixtureinfo", None)
    return [one.func for ones in found.name2fixturedefs.values() for one in ones[-1:]] if found else []


@cache
def _is_slow(fixture: Callable[..., object]) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(fixture)))
    except (OSError, TypeError):
        return False  # pytest's own
    return _needs_more(_names(ast.walk(tree)))
