"""The command line: `policy-saver verify FOLDER` and `policy-saver push FOLDER URL`, or `python -m saver …`."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from saver import __version__
from saver.libraries import require
from saver.stderr import hushed

_COLOURS = {"ok": "32", "failed": "1;31", "skipped": "33"}
_NARROWEST = 20
_SCRIPT = "policy-saver"
_PUSH = "The admin token is read from POLICY_SERVER_ADMIN_TOKEN."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 1 if something failed, 2 for a wrong call."""
    called = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=_SCRIPT if called == _SCRIPT else "python -m saver", description=__doc__)
    parser.add_argument("--version", action="version", version=f"{_SCRIPT} {__version__}")
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
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        # argparse itself would show the usage of `python -m saver`, which does not mention this command.
        commands.choices[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
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
    try:
        require("tensorflow")
    except ImportError as error:
        print(f"saver: {error}", file=sys.stderr)
        return 1
    with hushed():
        from saver.verify import verify_folder

        findings = verify_folder(folder)
    print(folder)
    _print_table([(finding.what, finding.result, finding.detail) for finding in findings])
    failed = sum(finding.result == "failed" for finding in findings)
    skipped = sum(finding.result == "skipped" for finding in findings)
    looked_at = len(findings) - skipped
    if failed:
        print(f"{failed} of {len(findings)} failed")
    else:
        well = f"all well: {looked_at} looked at" if looked_at else "nothing looked at"
        print(well + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


def _print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """A line for each (what, result, detail); on a terminal in colour, and broken where it ends."""
    first = max(len(what) for what, _, _ in rows)
    if not sys.stdout.isatty():
        for what, result, detail in rows:
            print(f"{what:{first}}  {result:7}  {detail}".rstrip())
        return
    margin = " " * (first + 2 + len("skipped") + 2)
    width = max(_NARROWEST, shutil.get_terminal_size().columns - len(margin))
    for what, result, detail in rows:
        lines = textwrap.wrap(detail, width) or [""]
        print(f"{what:{first}}  \033[{_COLOURS[result]}m{result:7}\033[0m  {lines[0]}")
        for line in lines[1:]:
            print(margin + line)


if __name__ == "__main__":
    sys.exit(main())
