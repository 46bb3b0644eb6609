"""Which sessions are recorded where only a share of them is: by a hash of the policy and the session's id."""

from __future__ import annotations

import hashlib

_LARGEST = 2**64


def is_in_share(policy: str, session: str, share: float) -> bool:
    """Returns whether a session is one of the share (0 to 1): always the same for the same names.

    What is in a share is in every larger one.
    """
    if share >= 1:
        return True
    digest = hashlib.blake2b(f"{policy}/{session}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _LARGEST
