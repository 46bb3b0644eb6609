"""Every setting once: its name (with the unit), default, help and bounds. The only place that reads the environment.

The command line and the environment (`POLICY_SERVER_` + the name in capitals) are made from this table; the
command line wins.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from app.redis_urls import is_url, wrong_option
from saver.artifact import is_name

PREFIX = "POLICY_SERVER_"
_REDIS = ("redis://", "rediss://", "unix://")


class SettingsError(Exception):
    """A setting that cannot be used; the message says which, what came and what was expected."""


def setting(default: Any, text: str, **bounds: Any) -> Any:
    """Declares one setting.

    `bounds`: the `choices`, or the `least` and the `most` of a number, themselves allowed, or the `schemes` of a URL.
    `path`: whether `~` at its start is the home.
    """
    return _declared(default, {"help": text, "least": None, "most": None, **bounds})


def secret(text: str, *, schemes: tuple[str, ...] = ()) -> Any:
    """Declares a setting that is read from the environment only: every user of a machine can read its command lines.

    `schemes`: those of the URLs that it may be; none where it is no URL.
    """
    return _declared("", {"help": text, "secret": True, "schemes": schemes})


def _declared(default: Any, metadata: Mapping[str, Any]) -> Any:
    return field(default=default, metadata={"choices": (), "secret": False, "schemes": (), "path": False, **metadata})


@dataclass(frozen=True)
class PolicyFolder:
    """A policy to serve: its name in URLs and its folder.

    `series` is the folder of exports that was named, where `folder` is the newest of them and all are checkpoints.
    """

    name: str
    folder: Path
    series: Path | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of one server. Field names are the options' names."""

    policies: tuple[PolicyFolder, ...]
    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on; 0 takes a free one", least=0, most=65535)
    grpc_port: int = setting(
        0, "port for the Open Inference Protocol over gRPC (needs the extra grpc); 0: none", least=0, most=65535
    )
    uds: str = setting("", "path of a unix socket to listen on beside the port; empty: none", path=True)
    uds_mode: str = setting("660", "who may connect to it, as chmod takes it, in octal digits")
    uds_owner: str = setting("", "USER:GROUP that it belongs to, either left out where it stays; empty: it stays")
    openpi: str = setting("", "name of the policy that OpenPI clients find at the path /; empty: none")
    workers: int = setting(1, "processes that answer requests; all change weights together", least=1, most=64)
    engine: str = setting(
        "auto",
        "what runs the policies: litert, tensorflow, or auto: LiteRT where it was shown to be equal to TensorFlow",
        choices=("auto", "litert", "tensorflow"),
    )
    watch: bool = setting(True, "swap in new checkpoints as they appear")
    state_dir: str = setting(
        "",
        "folder for what survives a restart: pins, and the files of the last versions; empty: nothing survives",
        path=True,
    )
    probe_inputs: str = setting(
        "", "file of requests that the policies can answer; every new version is tried on them too", path=True
    )
    strict_bounds: bool = setting(False, "refuse floats outside the bounds of the spec")
    non_finite: str = setting(
        "refuse", "NaN and infinities in requests: accept or refuse", choices=("accept", "refuse")
    )
    # Long enough for a cold policy under load; a simulator that waits longer has stalled anyway.
    deadline_ms: int = setting(10_000, "milliseconds for an answer, where the request sets no timeout_ms", least=1)
    # A graph of 250 million parameters is opened, compiled and verified in less.
    swap_deadline_ms: int = setting(
        120_000, "milliseconds for the answer to a reload or roll-back; the swap goes on after them", least=1
    )
    stalled_s: int = setting(
        30, "seconds without any work after which a process that another one waits for is replaced", least=1
    )
    # A batch of 84x84x4 images as JSON text takes 112 KB a row: 64 MiB, the most that follows, are 600 rows.
    body_limit_bytes: int = setting(
        0, "largest request body, uploads apart; 0: what the largest batch of the policy takes", least=0
    )
    # A policy of 250 million parameters. An upload goes to the disk as it arrives, so that the disk sets the bound.
    upload_limit_bytes: int = setting(2**30, "largest checkpoint that may be uploaded", least=1)
    rows_limit: int = setting(65_536, "most rows in one request", least=1)
    # Load balancers keep theirs for 60 s (AWS, Azure, nginx): the side that asks has to close first, or a request meets
    # a connection that is closing.
    keep_alive_s: int = setting(75, "seconds after which a connection without requests is closed", least=1)
    client_timeout_s: int = setting(
        10,
        "seconds that a client may take for a request's head, for each 16 KiB of its body, and to read of an answer",
        least=1,
    )
    buffered_limit_bytes: int = setting(
        96 * 2**20, "most memory for all unfinished requests of a worker, and for all unread answers", least=2**20
    )
    # At 1,000 answers a second the last one in waits a second, far inside the deadline.
    queue_limit_requests: int = setting(1024, "requests that may wait for one policy", least=1)
    # A record of a small recurrent policy takes 2 KB: 16,384 of them are 32 MB.
    sessions_limit: int = setting(16_384, "most sessions at once", least=1)
    # Fewer than there may be, so that no client alone keeps the others out.
    sessions_per_client: int = setting(12288, "most sessions at once from one address", least=1)
    sessions_bytes_limit: int = setting(
        256 * 2**20, "most memory that sessions may take (those in Redis apart)", least=1
    )
    sessions_idle_s: int = setting(600, "seconds after its last request for which a session is kept", least=1)
    # Each is a copy of the weights.
    retained_versions: int = setting(4, "most versions of a policy that sessions may retain at once", least=1)
    experience_dir: str = setting(
        "", "folder in which the experience of sessions is kept (needs the extra experience); empty: none is", path=True
    )
    experience_share: float = setting(
        1.0, "share of the sessions that is recorded, chosen by their ids", least=0.0, most=1.0
    )
    experience_bytes_limit: int = setting(
        10 * 2**30, "most bytes of experience, of all policies together; the oldest goes first", least=2**20
    )
    experience_segment_bytes: int = setting(
        64 * 2**20, "bytes at which a file of experience is closed, and becomes Parquet", least=2**16
    )
    experience_segment_s: int = setting(60, "seconds after which a file of experience is closed", least=1)
    root_path: str = setting("", "path prefix that a proxy in front strips")
    trusted_proxies: str = setting(
        "", "addresses or networks, comma-separated, whose X-Forwarded-For names the client; * for all"
    )
    cors_origins: str = setting("", "origins that browsers may call from, comma-separated, or *")
    fleet: str = setting("default", "name of the servers that change weights as one (with a fleet_url)")
    advertise: str = setting(
        "",
        "URL at which the other servers of the fleet reach this one; empty: that of its host and port",
        schemes=("http://", "https://"),
    )
    checkpoint_expected_s: int = setting(
        0, "seconds within which a new checkpoint is expected, for the alert that none has come; 0: none is", least=0
    )
    log_level: str = setting(
        "info",
        "lowest level that is logged: debug, info, warning or error",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = setting(
        "text", "form of the log's lines: text, or json for an object a line", choices=("text", "json")
    )
    traces: bool = setting(
        False, "send traces (needs the extra opentelemetry); OpenTelemetry's own variables say where to and how many"
    )
    admin_token: str = secret("bearer token of the admin routes; without one they are closed")
    session_url: str = secret(
        "redis://… for the sessions of all workers and replicas; empty: in memory",
        schemes=_REDIS,
    )
    fleet_url: str = secret(
        "redis://… through which the servers of a fleet agree; empty: this server is alone",
        schemes=_REDIS,
    )
    data_token: str = secret("bearer token of the data routes; without one they are open")


def all_settings() -> list[Field[Any]]:
    """Returns the fields of `Settings` that are options, in the order of their help."""
    return [f for f in fields(Settings) if f.default is not MISSING]


def variable(name: str) -> str:
    """Returns the environment variable of a setting."""
    return PREFIX + name.upper()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for every setting that is no secret. Options not given stay None: see `settings_from`."""
    for f in all_settings():
        if f.metadata["secret"]:
            continue
        shown = f"{f.metadata['help']} (default {_shown(f.default)}, {variable(f.name)})"
        flag = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=shown)
        else:
            choices = ",".join(f.metadata["choices"])
            metavar = f"{{{choices}}}" if choices else type(f.default).__name__.upper()
            parser.add_argument(flag, default=None, metavar=metavar, help=shown)


def settings_from(policies: Sequence[str], options: Mapping[str, Any], env: Mapping[str, str]) -> Settings:
    """Joins the command line and the environment.

    Args:
      policies: `NAME=FOLDER` or `FOLDER`; where empty, POLICY_SERVER_POLICIES (separated by spaces) counts.
      options: option name → text or bool, None where not given.
      env: the environment.

    Raises:
      SettingsError: a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for f in all_settings():
        given = options.get(f.name)
        source = "--" + f.name.replace("_", "-")
        if given is None:
            given, source = _from_environment(f, env)
        if given is not None:
            values[f.name] = _parsed(f, given, source)
    if not is_name(values.get("fleet", "default")):
        raise SettingsError(f"{values['fleet']!r} cannot name a fleet: expected letters, digits, '.', '_' and '-'")
    listed = list(policies) or env.get(variable("policies"), "").split()
    found = _policies(listed)
    names = [policy.name for policy in found]
    if values.get("openpi") and values["openpi"] not in names:
        raise SettingsError(f"--openpi is {values['openpi']!r}, expected the name of a policy: {', '.join(names)}")
    return Settings(found, **values)


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """Lists variables that look like settings and are none. Not an error: Kubernetes sets some of this form."""
    known = {variable(f.name) for f in fields(Settings)} | {
        file_variable(f) for f in all_settings() if f.metadata["secret"]
    }
    return sorted({n for n in env if n.startswith(PREFIX)} - known)


def telemetry_variables() -> dict[str, str]:
    """Returns OpenTelemetry's variables of this process; an empty one counts as unset, as it says."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_") and value.strip()}


def traces_are_sent(settings: Settings, variables: Mapping[str, str]) -> bool:
    """Returns whether traces are switched on, and OpenTelemetry's variables do not switch them off.

    Raises:
      SettingsError: they ask for a way to send them that there is not.
    """
    if not settings.traces or variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = variables.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    if exporter not in ("otlp", "none"):
        raise SettingsError(f"OTEL_TRACES_EXPORTER is {exporter!r}, expected otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := variables.get(name)) is not None:
            if protocol.strip().lower() != "http/protobuf":
                raise SettingsError(f"{name} is {protocol!r}, expected http/protobuf")
            break
    return exporter == "otlp"


def file_variable(f: Field[Any]) -> str:
    """Returns the environment variable that names a file with a secret in it."""
    return variable(f.name) + "_FILE"


def _from_environment(f: Field[Any], env: Mapping[str, str]) -> tuple[str | None, str]:
    """Returns the text that the environment gives a setting, None if none, and the name of the variable."""
    given, source = env.get(variable(f.name)), variable(f.name)
    path = env.get(file_variable(f)) if f.metadata["secret"] else None
    if not path:
        return given, source
    if given:
        raise SettingsError(f"{source} and {file_variable(f)} are both set: expected one of them")
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{file_variable(f)} is {path}, which cannot be read: {reason}") from None
    if not text:
        # Not the same as unset: without a token the data routes would be open.
        raise SettingsError(f"{file_variable(f)} is {path}, which is empty")
    return text, file_variable(f)


def settings_from_process(policies: Sequence[str], options: Mapping[str, Any]) -> Settings:
    """Joins the command line and this process's environment: see `settings_from`."""
    return settings_from(policies, options, os.environ)


def _parsed(f: Field[Any], given: Any, source: str) -> Any:
    limits = f.metadata
    if isinstance(f.default, bool):
        if isinstance(given, bool):
            return given
        if given.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return given.lower() in ("1", "true", "yes", "on")
        raise SettingsError(f"{source} is {given!r}, expected true or false")
    if isinstance(f.default, int | float):
        try:
            number = type(f.default)(given)
        except ValueError:
            kind = "an integer" if isinstance(f.default, int) else "a number"
            raise SettingsError(f"{source} is {given!r}, expected {kind}") from None
        if not number >= limits["least"] or (limits["most"] is not None and number > limits["most"]):
            most = f" to {limits['most']}" if limits["most"] is not None else " or more"
            raise SettingsError(f"{source} is {number}, expected {limits['least']}{most}")
        return number
    if limits["choices"] and given not in limits["choices"]:
        raise SettingsError(f"{source} is {given!r}, expected one of {', '.join(limits['choices'])}")
    if limits["schemes"] and given and not is_url(given, limits["schemes"]):
        # The value is left out of the message: it may contain a password.
        raise SettingsError(f"{source} is no URL that starts with {', '.join(limits['schemes'])}")
    if given and limits["schemes"] == _REDIS and (wrong := wrong_option(given)):
        raise SettingsError(f"{source} {wrong}")
    return str(_with_home(given, source)) if given and limits["path"] else given


def _with_home(text: str, source: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SettingsError(f"{source} is {text!r}, but that user has no home, or is unknown") from None


def _policies(listed: Sequence[str]) -> tuple[PolicyFolder, ...]:
    if not listed:
        raise SettingsError("no policy given: expected NAME=FOLDER, or FOLDER, at least once")
    found: dict[str, PolicyFolder] = {}
    for text in listed:
        name, separator, folder = text.partition("=")
        named = separator and "/" not in name  # else it is the path of a folder, as `runs/lr=0.1`
        path = _with_home(folder if named else text, "the folder of a policy").absolute()
        name = name if named else path.name
        if not is_name(name):
            raise SettingsError(f"{name!r} cannot name a policy: expected letters, digits, '.', '_' and '-'")
        if name in found:
            raise SettingsError(f"two policies named {name!r}: {found[name].folder} and {path}")
        found[name] = PolicyFolder(name, path)
    return tuple(found.values())


def _shown(default: Any) -> str:
    return repr(default) if default == "" else str(default).lower()
