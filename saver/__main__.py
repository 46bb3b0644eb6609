"""The command line: `python -m saver verify FOLDER` and `python -m saver push FOLDER URL`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saver.hush import hushed

_STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
_WIDTH = 120
_PUSH = "The admin token is read from POLICY_SERVER_ADMIN_TOKEN."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 if something failed, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m saver", description=__doc__)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # paths and names may hold what a terminal cannot show
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="does an export answer as it should")
    verify.add_argument("folder", metavar="FOLDER", type=Path, help="what PolicySaver.save wrote")
    push = commands.add_parser("push", help="send a checkpoint to a running server", description=_PUSH)
    push.add_argument("folder", metavar="FOLDER", type=Path, help="what save_checkpoint wrote; it holds variables/")
    push.add_argument("url", metavar="URL", help="the server's address, or that of a policy: …/v1/policies/NAME")
    push.add_argument("--name", help="the checkpoint's name there (default: the folder's)")
    push.add_argument("--policy", help="which policy it is for (default: the server's default one)")
    push.add_argument("--activate", action="store_true", help="serve it at once, and stay there")
    parsed = parser.parse_args(arguments)
    return _push(parsed) if parsed.command == "push" else _verify(parsed.folder)


def _push(parsed: argparse.Namespace) -> int:
    from saver.push import PushError, push

    try:
        print(push(**{key: value for key, value in vars(parsed).items() if key != "command"}, env=os.environ))
    except PushError as error:
        print(f"saver: {error}", file=sys.stderr)
        return 1
    return 0


def _verify(folder: Path) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with hushed():
        from saver.verify import verify_folder

        findings = verify_folder(folder)
    table = Table("looked at", "result", "", title=escape(str(folder)), title_justify="left")
    for finding in findings:
        table.add_row(escape(finding.what), f"[{_STYLES[finding.result]}]{finding.result}[/]", escape(finding.detail))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=_WIDTH)).print(table)
    failed = sum(finding.result == "failed" for finding in findings)
    print(f"{failed} of {len(findings)} failed" if failed else f"all well: {len(findings)} looked at")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
