"""Where a member gives files to another, and is asked for more."""

from __future__ import annotations

from pathlib import Path

# With it a member says on which machine it runs: one on the same machine may name its folder in the place of the files.
MACHINE_HEADER = "Machine"
# Beside the two kinds of app/artifacts/bundle.py, which go by their digests.
CHECKPOINTS = "checkpoints"
FILES_PATH = "/fleet/policies/{policy}/{kind}/{name}"
RELOAD_PATH = "/fleet/policies/{policy}/{what}"
UPLOADS_PATH = "/fleet/policies/{policy}/uploads/{name}"


def files_path(policy: str, kind: str, name: str) -> str:
    """Returns the path at which a member gives a folder."""
    return FILES_PATH.format(policy=policy, kind=kind, name=name)


def reload_path(policy: str, what: str) -> str:
    """Returns the path at which a member is asked to `find` a checkpoint in its folder, or to `reload` it."""
    return RELOAD_PATH.format(policy=policy, what=what)


def upload_path(policy: str, name: str) -> str:
    """Returns the path at which a member hears of a checkpoint that was uploaded to another one."""
    return UPLOADS_PATH.format(policy=policy, name=name)


def machine() -> str:
    """Returns what names this machine until it is started again, "" where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""
