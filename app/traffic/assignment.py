"""The arm that a session belongs to: a pure function of its id, the canary and its share."""

from __future__ import annotations

import hashlib

ACTIVE, CANARY, SHADOW = ARMS = ("active", "canary", "shadow")

_BYTES = 8


def arm_of(session: str, canary: str, share: float) -> str:
    """Returns the arm of a session, `ACTIVE` or `CANARY`.

    Whoever is in the canary at some share is in it at any larger one; with the digest of the canary as the key of the
    hash, the next canary gets other sessions.

    Args:
      session: its id.
      canary: the digest of the canary.
      share: of the sessions that the canary gets, 0 to 1.
    """
    return CANARY if place_of(session, canary) < share else ACTIVE


def place_of(session: str, canary: str) -> float:
    """Returns a number in [0, 1) that is spread evenly over ids, and differs from canary to canary."""
    key = hashlib.sha256(canary.encode()).digest()
    hashed = hashlib.blake2b(session.encode(), digest_size=_BYTES, key=key).digest()
    # The 53 bits that a float has: of all 64, the largest numbers would be rounded to 1.
    return (int.from_bytes(hashed, "big") >> 11) * 2.0**-53
