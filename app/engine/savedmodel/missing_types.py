"""What to do about an export that TensorFlow does not load, because it holds a type that nobody has registered here."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from importlib.metadata import PackageNotFoundError, version

# What has been tried with the packages of this server; no resolver can join TF-Agents' own pins with theirs.
_INSTALL = "--no-deps tf-agents==0.19.0 gin-config pillow"
_MISSING = re.compile(r"The type '((?:\w+\.)+\w+?)(?:_ACTTypeSpec)?' has not been registered")


def explained(text: str) -> str:
    """What TensorFlow said, or what it means where a type is missing: one line, with the command to run."""
    found = _MISSING.search(text)
    if found is None:
        return text
    holds = f"its distribution function returns {found[1]}"
    if not found[1].startswith("tf_agents."):
        return (
            f"{holds}, a class of the program that saved it: "
            "expected one of TFP or TF-Agents, or an export of saver.PolicySaver"
        )
    if _is_here("tf_agents"):
        return f"{holds}, which TF-Agents {_version('tf-agents')} here does not have"
    return f"{holds}, which only TF-Agents has; install it, and start the server again: {_pip()} {_INSTALL}"


def import_what_is_missing(text: str) -> bool:
    """Whether types that `text` misses may be there now: TF-Agents is installed, and had not been imported."""
    found = _MISSING.search(text)
    if found is None or not found[1].startswith("tf_agents.") or found[1].rpartition(".")[0] in sys.modules:
        return False
    try:
        importlib.import_module(found[1].rpartition(".")[0])
    except ImportError:
        return False
    return True


def _pip() -> str:
    if _is_here("pip"):
        return f"{sys.executable} -m pip install"
    return f"uv pip install --python {sys.executable}"  # what uv makes has no pip


def _is_here(module: str) -> bool:
    importlib.invalidate_caches()  # it may have been installed meanwhile
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(of unknown version)"
