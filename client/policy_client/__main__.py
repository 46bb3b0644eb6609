"""The command line: what a server's policy takes, and what it answers, from a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policy_client.errors import PolicyError
from policy_client.experience import Experience
from policy_client.policy import RemotePolicy
from policy_client.retries import Retries
from policy_client.version import __version__

_TOKEN = "POLICY_SERVER_DATA_TOKEN"  # noqa: S105 - the name of a variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 where the server refuses or is not there, 2 for a wrong call."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == "experience":
        return _export(parsed)
    try:
        with RemotePolicy(
            parsed.url, parsed.policy, token=os.environ.get(_TOKEN, ""), retries=Retries(total_s=parsed.patience_s)
        ) as policy:
            result = policy.describe() if parsed.command == "describe" else _answer(policy, parsed)
    except (PolicyError, ValueError, TypeError) as error:
        return _failed(str(error))
    sys.stdout.write(json.dumps(result, indent=2, default=_plain) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    about = f"Asks a policy server from a shell. A token for the data routes is read from {_TOKEN}."
    parser = argparse.ArgumentParser(prog="policy-client", description=about)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    describe = commands.add_parser("describe", help="print what a policy takes and answers, as JSON")
    action = commands.add_parser("action", help="print the action for an observation, as JSON")
    for command in (describe, action):
        command.add_argument("url", metavar="URL", help="the server's address, like http://localhost:8000")
        command.add_argument("--policy", help="the policy's name (default: the server's default one)")
        command.add_argument(
            "--patience-s", type=float, default=0.0, help="seconds to ask again for, where no answer comes (default: 0)"
        )
    experience = commands.add_parser("experience", help="what a server has recorded")
    export = experience.add_subparsers(dest="subcommand", required=True).add_parser(
        "export", help="write it as a file, or a dataset, of another library"
    )
    export.add_argument("source", metavar="SOURCE", help="the server's address, or a policy's folder of segments")
    export.add_argument(
        "out", metavar="OUT", help="the file to write; with minari the dataset's name, like cartpole/served-v0"
    )
    export.add_argument("--format", choices=tuple(_FORMATS), default="parquet", help="default: %(default)s")
    export.add_argument("--policy", help="of a server: the policy's name (default: the server's default one)")
    action.add_argument("observation", metavar="OBSERVATION", type=_json, help='a nest in JSON, like "[0.1, 0, 0, 0]"')
    action.add_argument("--mode", choices=("greedy", "sample"), help="default: what the policy does")
    action.add_argument("--seed", type=int, help="draw with this seed")
    return parser


def _export(parsed: argparse.Namespace) -> int:
    try:
        from policy_client import exports, recordings
    except ImportError as error:
        return _failed(f"{error}; install policy-client[experience]")
    try:
        if "://" in parsed.source:
            experience = Experience(parsed.source, parsed.policy, token=os.environ.get(_TOKEN, ""))
            with experience:
                said = _FORMATS[parsed.format](exports, recordings.of_server(experience), parsed.out)
        else:
            said = _FORMATS[parsed.format](exports, recordings.of_folder(Path(parsed.source)), parsed.out)
    except ImportError as error:
        return _failed(f"{error}; install policy-client[{exports.EXTRAS[parsed.format]}]")
    except (recordings.NoRecording, PolicyError, ValueError, OSError) as error:
        return _failed(str(error).partition("\n")[0])  # gin adds a line about itself
    sys.stdout.write(f"{said}\n")
    return 0


_FORMATS: dict[str, Callable[[Any, Any, str], str]] = {
    "parquet": lambda exports, recording, out: exports.to_parquet(recording, Path(out)),
    "tfrecord": lambda exports, recording, out: exports.to_tfrecord(recording, Path(out)),
    "minari": lambda exports, recording, out: exports.to_minari(recording, out),
}


def _failed(why: str) -> int:
    sys.stderr.write(f"policy-client: {why}\n")
    return 1


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None


def _answer(policy: RemotePolicy, parsed: argparse.Namespace) -> dict[str, Any]:
    answer = policy.action(parsed.observation, mode=parsed.mode, seed=parsed.seed)
    return {"action": answer.action, "version": answer.version, "train_step": answer.train_step}


def _plain(value: Any) -> Any:
    """What JSON has for an array."""
    return np.asarray(value).tolist()


if __name__ == "__main__":
    sys.exit(main())
