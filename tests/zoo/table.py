"""The documentation's table of what each kind of policy supports: `python -m tests.zoo.table > docs/policies.md`."""

import contextlib
import sys
import tempfile
from pathlib import Path

from saver.artifact import PolicyManifest, read_policy_manifest
from tests.zoo.exported import Exports
from tests.zoo.kinds import KINDS, Kind

FUNCTIONS = ("distribution", "greedy", "sample", "log_prob")
HEAD = """# Which policies have what

Made by `make docs` from exports of the policies in `tests/zoo`, where each answers as the live policy does. `sample` is
what the options `"mode": "sample"` and `"seed"` need. A number points to the reason below the table. How to read the
families: [distributions](distributions.md).
"""


def page(manifests: dict[str, PolicyManifest]) -> str:
    """The whole page."""
    reasons: dict[str, int] = {}
    parts = [HEAD]
    for group in dict.fromkeys(kind.group for kind in KINDS.values()):
        parts.append(
            f"## {group}\n\n| kind | policy | distribution | greedy | sample | log_prob |\n|---|---|---|---|---|---|"
        )
        parts += [row(kind, manifests[kind.name], reasons) for kind in KINDS.values() if kind.group == group]
        parts[-1] += "\n"
    parts.append("## Why not\n")
    parts += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(parts) + "\n"


def row(kind: Kind, manifest: PolicyManifest, reasons: dict[str, int]) -> str:
    """One kind; `reasons` collects why something is unavailable, and numbers it."""
    assert manifest.serving is not None
    serving = manifest.serving
    families = dict.fromkeys(_family(info) for info in serving.distributions.values())
    cells = []
    for function in FUNCTIONS:
        if function in serving.signatures:
            cells.append(", ".join(families) if function == "distribution" else "yes")
        else:
            reason = serving.unavailable[function]
            cells.append(f"no ({reasons.setdefault(reason, len(reasons) + 1)})")
    return f"| `{kind.name}` | {kind.describe} | {' | '.join(cells)} |"


def _family(info: object) -> str:
    details = info.details
    inner = details.get("base") or details.get("components")
    inner = inner if isinstance(inner, list) else [inner] if inner else []
    name = info.family + (f" of {', '.join(part['family'] for part in inner)}" if inner else "")
    return name + (" (random)" if details.get("random") else "")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        exports = Exports(Path(folder))
        text = page({name: read_policy_manifest(exports[name].folder) for name in KINDS})
    print(text, end="")


if __name__ == "__main__":
    main()
