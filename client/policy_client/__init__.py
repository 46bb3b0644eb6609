"""A client of the policy server: `RemotePolicy`, its sessions, and the `Experience` that the server recorded.

Needs httpx, msgspec and NumPy. `policy_client.gymnasium` steps vector environments, `policy_client.tf_agents` has a
policy for TF-Agents' drivers and a dataset for its agents; only they import those libraries.
"""

from policy_client.answers import Action, Distribution
from policy_client.asynchronous import AsyncRemotePolicy, AsyncSession
from policy_client.errors import (
    BadRequest,
    Conflict,
    DeadlinePassed,
    Denied,
    DoesNotFit,
    NotFound,
    PolicyError,
    ServerFailed,
    Unavailable,
    Unsupported,
)
from policy_client.experience import Experience
from policy_client.policy import RemotePolicy, Session
from policy_client.retries import Retries
from policy_client.version import __version__

__all__ = [
    "Action",
    "AsyncRemotePolicy",
    "AsyncSession",
    "BadRequest",
    "Conflict",
    "DeadlinePassed",
    "Denied",
    "Distribution",
    "DoesNotFit",
    "Experience",
    "NotFound",
    "PolicyError",
    "RemotePolicy",
    "Retries",
    "ServerFailed",
    "Session",
    "Unavailable",
    "Unsupported",
    "__version__",
]
