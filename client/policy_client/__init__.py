"""A client of the policy server: `RemotePolicy` and its sessions, for programs that wait, and for asyncio.

Needs httpx, msgspec and NumPy. `client.gymnasium` steps vector environments, `client.tf_agents` is a policy for
TF-Agents' drivers; only they import those libraries.
"""

from client.answers import Action, Distribution
from client.asynchronous import AsyncRemotePolicy, AsyncSession
from client.errors import (
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
from client.policy import RemotePolicy, Session
from client.retries import Retries

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
    "NotFound",
    "PolicyError",
    "RemotePolicy",
    "Retries",
    "ServerFailed",
    "Session",
    "Unavailable",
    "Unsupported",
]
