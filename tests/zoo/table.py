"""The table of what each kind of policy supports: `python -m tests.zoo.table > docs/reference/policies.md`."""

import contextlib
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from saver.artifact import PolicyManifest, read_policy_manifest
from tests.zoo.engines import NAMED, compiled_share, engine_of
from tests.zoo.exported import Exports
from tests.zoo.kinds import KINDS, Kind

FUNCTIONS = ("distribution", "greedy", "sample", "log_prob")
PROVED = "proved equal to TensorFlow on probe inputs"
HEAD = """# Which policies have what

Made by `make docs` from exports of the policies in `tests/zoo`, where each answers as the live policy does. `sample` is
what the options `"mode": "sample"` and `"seed"` need. `engine` is what a server runs the policy with: `litert`, after
it was compiled and compared with TensorFlow function by function, or `tensorflow`.
Processors round differently: on an AMD EPYC `ppo-values` runs on TensorFlow, and `cem` does not.
A number points to the reason below the table. How to read the families: [distributions](distributions.md).
Single operations: [operations](operations.md).
"""
# What an answer was depends on the processor.
_NUMBERS = re.compile(r" is \S.* for a probe input, TensorFlow says .*")
COLUMNS = ("kind", "policy", "engine", *FUNCTIONS)
Engines = Mapping[str, tuple[str, str]]


def page(manifests: Mapping[str, PolicyManifest], engines: Engines) -> str:
    """The whole page.

    Args:
      manifests: of each kind's export.
      engines: of each kind, and why.
    """
    reasons: dict[str, int] = {}
    parts = [HEAD, total({name: engine for name, (engine, _) in engines.items()})]
    for group in dict.fromkeys(kind.group for kind in KINDS.values()):
        parts.append(f"## {group}\n\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        parts += [row(k, manifests[k.name], engines[k.name], reasons) for k in KINDS.values() if k.group == group]
        parts[-1] += "\n"
    parts.append("## Why not\n")
    parts += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(parts) + "\n"


def total(engines: Mapping[str, str]) -> str:
    """How many kinds are compiled."""
    compiled = sum(engine == "litert" for engine in engines.values())
    share = 100 * compiled_share(engines)
    return (
        f"{compiled} of {len(engines)} kinds run compiled. Of the {len(NAMED)} sorts named in `tests/zoo/engines.py`,\n"
        f"each counted once and only where all its kinds are compiled, {share:.0f} % do.\n"
    )


def row(kind: Kind, manifest: PolicyManifest, engine: tuple[str, str], reasons: dict[str, int]) -> str:
    """One kind; `reasons` collects why something is unavailable, and numbers it."""
    assert manifest.serving is not None
    serving = manifest.serving
    families = dict.fromkeys(_family(info) for info in serving.distributions.values())
    name, why = engine[0], _NUMBERS.sub(" differs for a probe input", engine[1])
    cells = [name if why == PROVED else f"{name} ({_number(why, reasons)})"]
    for function in FUNCTIONS:
        if function in serving.signatures:
            cells.append(", ".join(families) if function == "distribution" else "yes")
        else:
            cells.append(f"no ({_number(serving.unavailable[function], reasons)})")
    return f"| `{kind.name}` | {kind.describe} | {' | '.join(cells)} |"


def engines_in(text: str) -> dict[str, str]:
    """The engine of each kind, read from a page."""
    cells = (line.split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {first.strip("| `"): re.sub(r" \(\d+\)$", "", engine) for first, _, engine, *_ in cells}


def _number(reason: str, reasons: dict[str, int]) -> int:
    return reasons.setdefault(reason, len(reasons) + 1)


def _family(info: object) -> str:
    details = info.details
    inner = details.get("base") or details.get("components")
    inner = inner if isinstance(inner, list) else [inner] if inner else []
    name = info.family + (f" of {', '.join(part['family'] for part in inner)}" if inner else "")
    return name + (" (random)" if details.get("random") else "")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        exports = Exports(Path(folder))
        engines = {name: engine_of(exports[name], Path(folder) / "prepared" / name) for name in KINDS}
        text = page({name: read_policy_manifest(exports[name].folder) for name in KINDS}, engines)
    print(text, end="")


if __name__ == "__main__":
    main()
