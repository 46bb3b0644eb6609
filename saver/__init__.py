"""Writes TF-Agents policies to disk, in a form that can be served and updated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saver import legacy_keras

if TYPE_CHECKING:
    from saver.policy_saver import PolicySaver

__all__ = ["PolicySaver"]
__version__ = "0.2.0"

legacy_keras.choose()


def __getattr__(name: str) -> Any:
    # PEP 562: the server imports saver.artifact, which must not bring TensorFlow with it.
    if name == "PolicySaver":
        from saver.policy_saver import PolicySaver

        return PolicySaver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
