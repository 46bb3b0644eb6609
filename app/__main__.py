"""The command line: `policy-server serve NAME=FOLDER …`, `policy-server inspect FOLDER` and `policy-server replay …`.

`python -m app` is the same program.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import io
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app import __version__, logs, tasks
from app.artifacts.bundle import TENSORFLOW
from app.artifacts.temporary import own_folder
from app.errors import UnusablePolicy
from app.settings import (
    Settings,
    SettingsError,
    add_options,
    settings_from_process,
    telemetry_variables,
    traces_are_sent,
    unknown_variables,
)
from app.unix_socket import unix_socket

if TYPE_CHECKING:
    from app.control.manager import Manager
    from app.control.openings import Openings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # paths and names may contain what a terminal cannot show
    parsed = _parsed(arguments)
    if parsed.command == "serve":
        return _start(parsed)
    _calm_tensorflow()
    try:
        return _inspect(parsed.folder) if parsed.command == "inspect" else _replay(parsed)
    except UnusablePolicy as error:
        print(f"policy server: {error}", file=sys.stderr)
        return 1


def _inspect(folder: Path) -> int:
    from app.inspection import inspect

    inspect(folder.absolute())
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    from app.replay.replay import Replay, run
    from app.tables import wide_console

    logs.calm_absl()
    given = {name: value for name, value in vars(parsed).items() if name != "command"}
    report = run(Replay(**given | {"folder": parsed.folder.absolute()}))
    report.print(wide_console())
    if report.differing:
        text = f"{report.differing:,} rows are answered otherwise by the version that answered then"
        print(f"policy server: {text}", file=sys.stderr)
    return 1 if report.differing else 0


def _start(parsed: argparse.Namespace) -> int:
    given = {key: value for key, value in vars(parsed).items() if key not in ("command", "policies")}
    try:
        settings = settings_from_process(parsed.policies, given)
        logs.configure(settings.log_level, settings.log_format, process="control")
        for name in unknown_variables(os.environ):
            _complain(logging.WARNING, f"{name} is no setting and is ignored")
        if settings.grpc_port and importlib.util.find_spec("grpc") is None:
            raise SettingsError("--grpc-port needs the extra grpc: pip install 'policy-server[grpc]'")
        if traces_are_sent(settings, telemetry_variables()) and not _has_opentelemetry():
            raise SettingsError("--traces needs the extra opentelemetry: pip install 'policy-server[opentelemetry]'")
        if settings.experience_dir and importlib.util.find_spec("pyarrow") is None:
            raise SettingsError("--experience-dir needs the extra experience: pip install 'policy-server[experience]'")
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(_bound_socket(settings))]
            if settings.uds:
                listeners.append(stack.enter_context(unix_socket(settings)))
            return _serve(settings, listeners)
    except (SettingsError, UnusablePolicy) as error:
        _complain(logging.ERROR, str(error))
        return 2 if isinstance(error, SettingsError) else 1


def _complain(level: int, text: str) -> None:
    """Says what is wrong with how the server was started, or why it ends, in the form of the log."""
    if logs.json_formatter() is not None:
        logging.getLogger("policy_server.start").log(level, "%s", text)
        logs.flush()
    else:
        logs.flush()  # or what was logged before would come after it
        print(f"policy server: {text}", file=sys.stderr)


def _has_opentelemetry() -> bool:
    """Returns whether the extra is there: of its packages, the one that needs all others."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # the package above it
        return False


_DESCRIPTION = "Serves TF-Agents policies over HTTP and swaps their weights while it serves."


def _called() -> str:
    """The name under which the program was started: that of its script, or of the module."""
    name = Path(sys.argv[0]).name
    return "python -m app" if name in ("__main__.py", "-m", "") else name


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=_called(), description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"policy-server {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve policies over HTTP")
    serve.add_argument(
        "policies",
        nargs="*",
        metavar="NAME=FOLDER",
        help="a policy to serve; the first is the default one. NAME= may be left out: the folder's name. "
        "With none here, POLICY_SERVER_POLICIES counts (separated by spaces)",
    )
    add_options(serve)
    inspect = commands.add_parser("inspect", help="show what is in an export, as the server would see it")
    inspect.add_argument("folder", metavar="FOLDER", type=Path, help="folder that PolicySaver.save wrote")
    _add_replay(commands.add_parser("replay", help="answer recorded observations again, and compare"))
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        # argparse itself would show the usage above the commands, which says nothing about this one.
        commands.choices[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.description = (
        "Answers recorded observations again: by the versions that answered then, to the last bit where they were "
        "greedy or seeded, or by another version, with a report of how much differs."
    )
    replay.add_argument("folder", metavar="FOLDER", type=Path, help="the policy's folder, as serve takes it")
    replay.add_argument(
        "--experience", metavar="DIR", type=Path, required=True, help="the folder that serve --experience-dir names"
    )
    replay.add_argument(
        "--checkpoint",
        metavar="NAME",
        default="",
        help='the version that answers, a checkpoint\'s name or "export" (default: for each row, that of then)',
    )
    replay.add_argument(
        "--policy", metavar="NAME", default="", help="the name that it was served by (default: the folder's)"
    )
    replay.add_argument(
        "--engine", choices=("auto", "litert", "tensorflow"), default="auto", help="as it was served (default: auto)"
    )
    replay.add_argument(
        "--tolerance",
        type=float,
        default=0.01,
        help="the largest difference of continuous actions that agree, in their own unit (default: 0.01)",
    )
    replay.add_argument("--picture", metavar="FILE.svg", type=Path, help="writes the report as a picture too")


@contextlib.contextmanager
def _bound_socket(settings: Settings) -> Iterator[socket.socket]:
    """Binds before anything is loaded, so that a port in use is reported at once; nobody can connect yet."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from None
        yield listener


def _serve(settings: Settings, listeners: Sequence[socket.socket]) -> int:
    _calm_tensorflow()
    with own_folder("policy-server-counts.") as counts:
        # Before its library is imported, here and in every process.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(counts)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve_until_signalled(settings, listeners))


def _calm_tensorflow() -> None:
    """Sets what TensorFlow reads at its import: no messages of its own, and Keras 2, which policies need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


async def _serve_until_signalled(settings: Settings, listeners: Sequence[socket.socket]) -> int:
    from app.control.server import open_server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stack = contextlib.AsyncExitStack()
    opening = asyncio.create_task(stack.enter_async_context(open_server(settings, listeners)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        await tasks.end(opening)
        return 0
    async with stack:
        _announce(settings, listeners[0], await opening)
        await stopping
    return 0


def _announce(settings: Settings, listener: socket.socket, openings: Openings) -> None:
    host, port = listener.getsockname()[:2]
    lines = [f"Listening on http://{f'[{host}]' if ':' in host else host}:{port} (console at /console, API at /docs)"]
    if settings.uds:
        lines.append(f"  and on the unix socket {settings.uds}")
    if settings.grpc_port:
        lines.append(f"  gRPC on port {settings.grpc_port}")
    for named in settings.policies:
        if named.name in openings.failures:
            lines.append(f"  {named.name}: NOT SERVED: {openings.failures[named.name]}")
            continue
        version = openings.managers[named.name].active
        lines.append(
            f"  {named.name}: version {version.name}, train step {version.train_step}, "
            f"engine {version.engine}, from {named.folder}"
        )
        with openings.managers[named.name].admission.offered() as (_, _, bundle):
            if bundle.engine == TENSORFLOW and settings.engine != TENSORFLOW:
                lines.append(f"    on TensorFlow: {bundle.engine_reason}")
    limits = _body_limits(settings, openings.managers)
    lines.append(
        f"Limits: body {limits}, upload {settings.upload_limit_bytes / 2**20:g} MiB, "
        f"deadline {settings.deadline_ms} ms, "
        f"{settings.rows_limit} rows a request, {settings.queue_limit_requests} requests waiting; "
        f"admin routes {'open to the token' if settings.admin_token else 'closed (no token)'}"
    )
    logs.say(*lines)


def _body_limits(settings: Settings, managers: Mapping[str, Manager]) -> str:
    """Returns the limits in MiB, as text; one a policy where they differ, and one for msgpack where that differs."""
    from app.wire.limits import largest_bodies

    given, limits = settings.body_limit_bytes, {}
    for name, manager in managers.items():
        with manager.admission.offered() as (_, graph, _):
            binary, text = (given, given) if given else largest_bodies(graph.spec.inputs, settings.rows_limit)
        limits[name] = f"{text / 2**20:.3g} MiB" + ("" if binary == text else f" ({binary / 2**20:.3g} MiB as msgpack)")
    if len(set(limits.values())) == 1:
        return next(iter(limits.values()))
    return ", ".join(f"{name} {size}" for name, size in limits.items())


if __name__ == "__main__":
    sys.exit(main())
