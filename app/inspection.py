"""What is in an export, as the server would see it: tables for a person."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.artifacts.checkpoint_identity import Identity, identify
from app.artifacts.export import check_folder
from app.artifacts.names import EXPORT
from app.artifacts.series import resolved
from app.artifacts.temporary import emptied, own_folder
from app.control import plan
from app.control.source import Scan, Source
from app.inputs.names import DEFAULTED, top_level
from app.settings import PolicyFolder
from app.tables import add_row, titled_table, wide_console
from saver.artifact import (
    Leaf,
    Nest,
    PolicySpec,
    ServingInfo,
    leaves,
    read_policy_manifest,
)
from saver.stderr import hushed


def inspect(folder: Path, console: Console | None = None) -> None:
    """Prints what the export in `folder` takes, gives and can do, and its checkpoints.

    Raises:
      UnusablePolicy: no export of a policy lies there.
    """
    named = resolved(PolicyFolder(folder.name, folder))
    folder = named.folder
    check_folder(folder)
    with hushed():  # here and not at the top: a mistyped folder is reported without TensorFlow
        from app.builder import probe
        from app.builder.checkpoint_validation import train_step_in
        from app.builder.open_export import open_export
        from app.builder.row_dependence import dependence_of_rows
        from app.builder.unsupported import draws_of
        from app.engine.savedmodel.load import load_copy
    with own_folder("policy-server-inspect.") as own:
        graph = open_export(folder, emptied(own / "graphs"))  # which is locked meanwhile, as `own` is already
        copy = load_copy(graph)
        draws = draws_of(copy.functions["action"].concrete, "sample" in graph.serving.signatures)
        probed = probe.examine(copy, graph.spec, probe.probes_of(graph.spec))
        copy.sharing = probed.sharing
        dependence = dependence_of_rows(copy, graph.spec, graph.serving)
    console = console or wide_console()
    console.print(f"[bold]{escape(folder.name)}[/bold]  {escape(_origin(folder))}")
    console.print(f"digest {graph.digest[:12]}…, {_rows(graph.spec)}")
    console.print(escape(draws))
    if dependence is None:
        console.print("its rows are answered independently of each other\n")
    else:
        console.print(f"two requests do not share a call: {escape(dependence.reason)}\n")
    tables = (_inputs(graph.spec), _outputs(graph.spec), _functions(graph.serving), _distributions(graph.serving))
    for table in (*tables, _probes(probed.public(), probed.one_row)):
        if table.row_count:
            console.print(table)

    def identified(checkpoint: Path, rest_s: float) -> Identity:
        return identify(checkpoint, rest_s, lambda folder, _: train_step_in(folder))

    console.print(_checkpoints(Source(folder, identified, [named.series] if named.series else []).scan(rest_s=0)))


def _origin(folder: Path) -> str:
    manifest = read_policy_manifest(folder)
    if manifest is None:
        return "an export of TF-Agents' own PolicySaver"
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.written_with.items())
    return f"{manifest.policy_class}, written with {libraries}"


def _rows(spec: PolicySpec) -> str:
    return (
        "any number of rows a call" if spec.batch_size is None else f"{spec.batch_size} rows a call (others are padded)"
    )


def _inputs(spec: PolicySpec) -> Table:
    table = titled_table("What action takes", "field", "flattened name", "dtype", "shape", "bounds", "default")
    for top, nest in top_level(spec).items():
        defaulted = spec.takes_time_step and top in DEFAULTED
        default = _DEFAULTS[top] if defaulted else "required"
        if top == "step_type" and "policy_state" in top_level(spec):
            default += "; 0 (FIRST) without policy_state"
        for path, leaf in leaves(nest, top):
            add_row(table, path, leaf.name, *_leaf(leaf), default)
    return table


_DEFAULTS = {
    "step_type": "1 (MID)",
    "reward": "0",
    "discount": "1",
    "policy_state": "the initial state",
}


def _outputs(spec: PolicySpec) -> Table:
    table = titled_table("What it answers", "field", "flattened name", "dtype", "shape", "bounds")
    nests: list[tuple[str, Nest]] = [("action", spec.action), ("policy_state", spec.state), ("info", spec.info)]
    for top, nest in nests:
        for path, leaf in leaves(nest, top):
            add_row(table, path, leaf.name, *_leaf(leaf))
    return table


def _functions(serving: ServingInfo) -> Table:
    table = titled_table("What else it can do", "function", "used by", "available")
    for name, use in _USES.items():
        add_row(table, name, use, "yes" if name in serving.signatures else f"no: {serving.unavailable.get(name, '')}")
    return table


_USES = {
    "distribution": "POST …/distribution",
    "greedy": '"mode": "greedy"',
    "sample": '"mode": "sample", "seed"',
    "log_prob": '"log_prob": true',
}


def _distributions(serving: ServingInfo) -> Table:
    table = titled_table("Distributions", "action", "family", "parameters", "statistics", "")
    for name, info in serving.distributions.items():
        details = ", ".join(f"{key}: {_brief(value)}" for key, value in info.details.items())
        add_row(table, name, info.family, ", ".join(info.parameters), ", ".join(info.statistics), details)
    return table


def _probes(probed: dict[str, Any], one_row: bool) -> Table:
    """What it does not answer; no rows where there is no problem."""
    table = titled_table(
        f"Probe inputs: {probed['answered']} of {probed['asked']} are answered", "input, and what it makes of it"
    )
    for problem in [*probed["problems"], *(["it answers one row a call only"] if one_row else [])]:
        add_row(table, problem)
    return table


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("family", value))
    return ", ".join(map(_brief, value)) if isinstance(value, list) else str(value)


def _checkpoints(scan: Scan) -> Table:
    table = titled_table("Checkpoints, the one that would serve first", "name", "train step", "digest", "")
    for name, step, digest, note in _checkpoint_rows(scan):
        add_row(table, name, step, digest, note)
    return table


def _checkpoint_rows(scan: Scan) -> Iterator[tuple[str, str, str, str]]:
    for candidate in plan.newest_first(scan.complete):
        yield candidate.name, str(candidate.train_step), f"{candidate.digest[:12]}…", ""
    yield EXPORT, "", "", "the weights of the export itself"
    for kind, reasons in (("incomplete", scan.incomplete), ("unreadable", scan.unreadable | scan.others)):
        for name, reason in sorted(reasons.items()):
            yield name, "", "", f"{kind}: {reason}"


def _leaf(leaf: Leaf) -> tuple[str, str, str]:
    shape = str(["?" if size is None else size for size in leaf.shape]).replace("'", "")
    if leaf.minimum is None and leaf.maximum is None:
        return leaf.dtype, shape, ""
    return leaf.dtype, shape, f"{_bound(leaf.minimum, 'any')} to {_bound(leaf.maximum, 'any')}"


def _bound(bound: Any, unbounded: str) -> str:
    text = unbounded if bound is None else f"{bound:.6g}" if isinstance(bound, float) else str(bound)
    return text if len(text) <= 40 else f"{text[:39]}…"
