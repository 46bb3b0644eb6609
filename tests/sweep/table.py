"""The documentation's table of operations: `python -m tests.sweep.table > docs/reference/operations.md`."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.sweep.compare import Difference, differences
from tests.sweep.operations import OPERATIONS
from tests.sweep.served import Served
from tests.sweep.values import CLASSES, ORDINARY

# Differences among ordinary numbers that stay, and why.
_SUMS = "sums are made in another order, which shows where large numbers of both signs cancel"
_SQUARES = "squares of the numbers go above 1e27"
_BEYOND = "TensorFlow leaves what the dtype cannot hold to the processor"
KNOWN = {
    "Sum": _SUMS,
    "Mean": _SUMS,
    "AvgPool": _SUMS,
    "AvgPool, valid": _SUMS,
    "moments": _SUMS,
    "ResizeBilinear": _SUMS,
    "LRN": _SQUARES,
    "norm": _SQUARES,
    "clip_by_norm": _SQUARES,
    "Cast float32 to int32, beyond": _BEYOND,
    "Cast float32 to int64, beyond": _BEYOND,
}
HEAD = """# What engines make of single operations

Made by `make docs-operations`: for each line a policy is exported whose action is the result of that operation, a
server's builder chooses its engine, and what that answers is compared with TensorFlow in one process. The numbers are
ends, ties (x.5), signed zeros, integers beyond 2^32, indices at and beyond the ends, denormal numbers, those above
1e27, infinities and NaN; in calls of one row, three, and many.

*difference*: the largest |a - b| / (1 + |b|) among ordinary numbers, those from 1e-37 to 1e27 whose results are such
too; the bound is 1e-5. *otherwise*: where results differ by more, or in kind, and how. TensorFlow takes denormal
numbers for 0 in some threads, and not in others. Infinities and NaN come from requests with `--non-finite accept` only.
A number in brackets points to the reason below.

[Which policies have what](policies.md) is the same for whole policies.
"""
COLUMNS = ("operation", "engine", "difference", "otherwise")


@dataclass(frozen=True)
class Row:
    """One line. `otherwise`: (class of numbers, how) of each kind of difference that is more than rounding."""

    name: str
    engine: str
    difference: float
    otherwise: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, engine: str, found: Sequence[Difference]) -> "Row":
        ordinary = [d.size for d in found if d.where == ORDINARY and (d.how == "rounding" or name not in KNOWN)]
        kinds = {(d.where, d.how) for d in found if d.how != "rounding"}
        return cls(name, engine, max(ordinary, default=0.0), tuple(sorted(kinds, key=_order)))

    @property
    def line(self) -> str:
        """As it stands on the page."""
        parts = [
            f"{where}: {', '.join(how for w, how in self.otherwise if w == where)}"
            for where in dict.fromkeys(where for where, _ in self.otherwise)
        ]
        known = [f" ({list(dict.fromkeys(KNOWN.values())).index(KNOWN[self.name]) + 1})"] if self.name in KNOWN else []
        text = "; ".join(parts) + "".join(known)
        return f"| {self.name} | {self.engine} | {self.difference:.1g} | {text} |"


def measured(name: str) -> Row:
    """The row of an operation, from an export made now."""
    with tempfile.TemporaryDirectory() as folder:
        served = Served.of(OPERATIONS[name], Path(folder))
        return Row.of(name, served.name, differences(served))


def page(rows: Iterable[Row]) -> str:
    """The whole page."""
    by_name = {row.name: row for row in rows}
    compiled = sum(row.engine == "litert" for row in by_name.values())
    parts = [HEAD, f"{compiled} of {len(by_name)} run compiled.\n"]
    for group in dict.fromkeys(operation.group for operation in OPERATIONS.values()):
        parts.append(f"## {group.capitalize()}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        parts += [by_name[o.name].line for o in OPERATIONS.values() if o.group == group]
        parts[-1] += "\n"
    reasons = list(dict.fromkeys(KNOWN.values()))
    parts += ["## Why\n", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(parts) + "\n"


def rows_in(text: str) -> dict[str, Row]:
    """The rows of a page, by operation."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = {}
    for name, engine, difference, *rest in cells:
        if name in OPERATIONS:
            parts = [part.split(": ") for part in "".join(rest).strip("| ").split(" (")[0].split("; ") if ": " in part]
            kinds = tuple((where, how) for where, hows in parts for how in hows.split(", "))
            rows[name] = Row(name, engine, float(difference), kinds)
    return rows


def _order(kind: tuple[str, str]) -> tuple[int, str]:
    return CLASSES.index(kind[0]), kind[1]


def main() -> None:
    for kind in ("INTRA", "INTER"):
        os.environ.setdefault(f"TF_NUM_{kind}OP_THREADS", "1")
    # Each process imports TensorFlow for itself: it cannot be taken along.
    with contextlib.redirect_stdout(sys.stderr):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context) as pool:
            text = page(pool.map(measured, OPERATIONS))
    print(text, end="")


if __name__ == "__main__":
    main()
