"""What simulators saw, as the server recorded it: rows of trajectories, batch by batch, as NumPy arrays."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

from policy_client.answers import ExperienceBatch
from policy_client.errors import Unavailable
from policy_client.fields import ReadFields
from policy_client.policy import RemotePolicy
from policy_client.retries import DEFAULT_RETRIES, Retries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self, Unpack

# `cursor` of a reader that wants what is recorded from now on.
END = "end"


class RowsLost(UserWarning):
    """Rows were removed on the server before they were read."""


class Experience:
    """Reads a policy's experience behind a cursor. One thread at a time may use it.

    Iterating yields a dict of columns for each batch of rows, and waits where there are none: it ends when `close` is
    called. The columns are those of TF-Agents' `Trajectory` (`step_type`, `observation`, `action`, `policy_info`,
    `next_step_type`, `reward`, `discount`; leaves of a nest by their paths, like `observation/camera`), arrays
    [rows, …]; and `version`, `train_step`, `session`, `run_id`, `incarnation`, `row`, `step`, `time_ns`, `log_prob`,
    `mode`, `seed`: arrays of numbers, lists of text.

    What a program has read is behind `cursor`: another one that is given it goes on there, with nothing twice.

    Attributes:
      cursor: the place behind the newest batch, to be kept with what was learned of it.
      policy: the `RemotePolicy` whose experience it is.
      is_closed: whether `close` was called.
      lost_rows: how many rows were gone before they could be read; the first time there is a `RowsLost` warning.

    Args:
      url: of the server.
      policy: the policy's name; None for the server's default policy.
      token: of the data routes, if the server was started with one.
      cursor: of an earlier reader; "" for the oldest row there is, `END` for what comes from now on.
      retries: see `RemotePolicy`.
      **fields: `max_rows`, `wait_ms`, `min_train_step`, `complete_episodes`: see policy_client/fields.py.

    Raises:
      ValueError: `url` is no HTTP address.
      TypeError: a field that does not exist.
    """

    def __init__(
        self,
        url: str,
        policy: str | None = None,
        *,
        token: str = "",
        cursor: str = "",
        retries: Retries = DEFAULT_RETRIES,
        **fields: Unpack[ReadFields],
    ) -> None:
        unknown = sorted(fields.keys() - ReadFields.__annotations__.keys())
        if unknown:
            raise TypeError(f"{unknown[0]!r} is no field of a reader; expected {', '.join(ReadFields.__annotations__)}")
        self.policy = RemotePolicy(url, policy, token=token, retries=retries)
        self.cursor = cursor
        self.lost_rows = 0
        self.complete_episodes = fields.get("complete_episodes", False)
        self.is_closed = False
        self._wait_ms = fields.get("wait_ms", 10_000)
        self._query: dict[str, Any] = {
            "max_rows": fields.get("max_rows"),
            "min_train_step": fields.get("min_train_step"),
            "complete_episodes": self.complete_episodes or None,
        }

    def read(self, wait_ms: int | None = None) -> ExperienceBatch:
        """Returns the next rows, none where none came within `wait_ms` milliseconds; `cursor` is behind them then.

        None either where another thread closes it meanwhile.

        Raises:
          DoesNotFit: the cursor is another policy's, or of experience that is gone; or a parameter is none.
          Unsupported: the server records nothing.
          PolicyError: the others of the tree.
        """
        wait_ms = self._wait_ms if wait_ms is None else wait_ms
        call = self.policy.calls.experience({**self._query, "cursor": self.cursor or None}, wait_ms)
        try:
            batch = self.policy.perform(call)
        except Unavailable:
            if not self.is_closed:
                raise
            return ExperienceBatch({}, 0, self.cursor, 0)
        self.cursor = batch.cursor
        if batch.lost_rows:
            if not self.lost_rows:
                text = f"{batch.lost_rows} rows of experience were removed before they were read"
                warnings.warn(text, RowsLost, stacklevel=2)
            self.lost_rows += batch.lost_rows
        return batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while not self.is_closed:
            batch = self.read()
            if batch.rows:
                yield batch.columns

    def close(self) -> None:
        """Ends the iteration behind the batch under way, and closes the connections."""
        self.is_closed = True
        self.policy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
