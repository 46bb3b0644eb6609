"""Classes, modules and functions are small: each of the exceptions is listed, with its reason."""

import ast
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("app", "saver", "client")
CLASS_LINES, MODULE_LINES, STATEMENTS, PARAMETERS = 250, 350, 40, 6
# What is over a limit -> why it is. Tables, and signatures that are not ours to choose.
EXCEPTIONS = {
    "saver/policy_saver.py: PolicySaver.__init__ has 7 parameters": (
        "the signature of TF-Agents' own PolicySaver, which trainers' programs call by position"
    ),
}


def over(source: str) -> Iterator[str]:
    """What is over a limit in a module, by its name."""
    lines = source.count("\n")
    if lines > MODULE_LINES:
        yield f"the module has {lines} lines"
    yield from _over_in(ast.parse(source), "")


def _over_in(tree: ast.AST, around: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        name = around
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{around}.{node.name}".lstrip(".")
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > CLASS_LINES:
                yield f"{name} has {lines} lines"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            statements = sum(isinstance(part, ast.stmt) for part in ast.walk(node)) - 1
            if statements > STATEMENTS:
                yield f"{name} has {statements} statements"
            if len(parameters(node)) > PARAMETERS:
                yield f"{name} has {len(parameters(node))} parameters"
        yield from _over_in(node, name)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of the parameters of a function, `self` aside."""
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")] + [
        several.arg for several in (arguments.vararg, arguments.kwarg) if several is not None
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_over_a_limit_but_what_is_listed(folder: str) -> None:
    files = [file for file in (ROOT / folder).rglob("*.py") if "build" not in file.relative_to(ROOT).parts]
    assert files
    found = {f"{file.relative_to(ROOT).as_posix()}: {what}" for file in files for what in over(file.read_text())}
    assert found - EXCEPTIONS.keys() == set()
    assert {name for name in EXCEPTIONS if name.startswith(f"{folder}/")} - found == set(), "no longer over a limit"


def test_policy_saver_has_the_parameters_of_tf_agents_own() -> None:
    """The reason of its exception: they are seven there too, in this order."""
    theirs = distribution("tf-agents").locate_file("tf_agents/policies/policy_saver.py")
    ours = ROOT / "saver" / "policy_saver.py"
    one, other = (_constructor(Path(str(file)).read_text()) for file in (ours, theirs))
    assert one == other
    assert len(one) == 7


def _constructor(source: str) -> list[str]:
    classes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == "PolicySaver"]
    made = [n for c in classes for n in c.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return parameters(made[0])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\n" * 350, []),
        ("x = 1\n" * 351, ["the module has 351 lines"]),
        ("class A:\n" + "    x = 1\n" * 249, []),
        ("class A:\n" + "    x = 1\n" * 250, ["A has 251 lines"]),
        ("def f():\n" + "    x = 1\n" * 40, []),
        ("async def f():\n" + "    x = 1\n" * 41, ["f has 41 statements"]),
        ("def f():\n    def g():\n" + "        x = 1\n" * 41, ["f has 42 statements", "f.g has 41 statements"]),
        ("class A:\n    def f(self, a, b, c, d, *e, **f): ...\n", []),
        ("class A:\n    def f(self, a, b, /, c, *d, e, f, **g): ...\n", ["A.f has 7 parameters"]),
        ("class A:\n    @classmethod\n    def f(cls, a, b, c, d, e, f): ...\n", []),
        ("if True:\n    def f(a, b, c, d, e, f, g): ...\n", ["f has 7 parameters"]),
    ],
)
def test_a_limit_is_seen_where_it_is_passed_and_not_one_before(source: str, expected: list[str]) -> None:
    assert list(over(source)) == expected
