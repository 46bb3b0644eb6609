"""The environments that rows are of, and the place of each: the episode that it is in, and its last step."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from app.experience.arrow import Rows
from app.experience.texts import Texts
from app.wire.tensors import Array

log = logging.getLogger("policy_server.experience")

# An environment takes some 300 bytes here, and each segment has a list of them. More than a server has sessions, unless
# they have thousands of rows.
_MOST_ENVIRONMENTS = 65_536
# So many more, by this share, may be there until some go.
_MORE = 1 / 8
# One that is in an episode and has not stepped while others did so often is gone.
_GONE_STEPS = 4 * _MOST_ENVIRONMENTS
_MOST_ROWS = 2**24
# A place: the number of the first row of the episode and its step; the last step; and when that was, as a count.
EPISODE_AT, FIRST_STEP_AT, STEP_AT, _SEEN_AT = range(4)
NO_EPISODE = -1

# A session, the start of it, and the environment's row in it.
Environment = tuple[str, str, int]


class Environments:
    """Environments by number. `places`: [environments, 3] by the columns above; only `keep` changes them."""

    def __init__(self) -> None:
        self._names: list[Environment] = []
        self._numbers: dict[Environment, int] = {}
        self._places = np.empty((0, 4), np.int64)
        # The numbers of some of them by keys, in their order: see `Texts.keys`.
        self._keys, self._of_keys = np.empty(0, np.int64), np.empty(0, np.int64)
        self._seen = 0
        self._has_logged = False

    def __iter__(self) -> Iterator[tuple[Environment, list[int]]]:
        """Yields each and its place, the one that stepped last at the end."""
        for number in np.argsort(self._places[: len(self._names), _SEEN_AT], kind="stable").tolist():
            yield self._names[number], self._places[number, :_SEEN_AT].tolist()

    def numbers_of(self, rows: Rows) -> Array:
        """Returns for each row the number of its environment: [rows]."""
        session, incarnation, row = rows["session"], rows["incarnation"], np.asarray(rows["row"])
        if not isinstance(session, Texts) or session.keys is None:
            names = zip(session, incarnation, row.tolist(), strict=True)
            return np.array([self._number(each) for each in names], np.int64)
        keys = session.keys[session.numbers] * _MOST_ROWS + row
        at, is_known = self._found(keys)
        if not is_known.all():
            new, places = np.unique(keys[~is_known], return_index=True)
            which = np.flatnonzero(~is_known)[places].tolist()
            numbers = [self._number((session[each], incarnation[each], int(row[each]))) for each in which]
            between = np.searchsorted(self._keys, new)
            self._keys, self._of_keys = np.insert(self._keys, between, new), np.insert(self._of_keys, between, numbers)
            at, _ = self._found(keys)
        return self._of_keys[at]

    def places(self, numbers: Array) -> Array:
        """Returns the places of environments."""
        return self._places[numbers]

    def keep(self, numbers: Array, places: Array) -> None:
        """Has environments be at these places: [n, 3]; of one that is there twice, the later."""
        self._places[numbers, :_SEEN_AT] = places
        self._places[numbers, _SEEN_AT] = np.arange(self._seen, self._seen + len(numbers))
        self._seen += len(numbers)
        if len(self._names) > (1 + _MORE) * _MOST_ENVIRONMENTS or len(self._keys) > 2 * _MOST_ENVIRONMENTS:
            self._make_room()

    def named(self, environment: Environment, place: list[int]) -> None:
        """Has an environment be at a place."""
        self.keep(np.array([self._number(environment)]), np.array([place], np.int64))

    def _found(self, keys: Array) -> tuple[Array, Array]:
        """Returns where keys stand among those that are known, and whether they do."""
        if not len(self._keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return at, self._keys[at] == keys

    def _number(self, environment: Environment) -> int:
        number = self._numbers.setdefault(environment, len(self._names))
        if number == len(self._names):
            self._names.append(environment)
            if number >= len(self._places):
                self._places = np.concatenate((self._places, np.empty((number + 1024, 4), np.int64)))
            self._places[number] = NO_EPISODE, 0, -2, -1
        return number

    def _make_room(self) -> None:
        """Forgets environments that are in no episode or gone, and of the others those that came last.

        Who came first stays to the end of the episode: if those went that stepped least lately, then of environments
        that step in turn each would be forgotten just before its next step, and no episode would be whole.
        """
        places = self._places[: len(self._names)]
        is_used = (places[:, EPISODE_AT] != NO_EPISODE) & (self._seen - places[:, _SEEN_AT] <= _GONE_STEPS)
        used = np.flatnonzero(is_used)
        kept = used[:_MOST_ENVIRONMENTS]
        if len(kept) < len(used) and not self._has_logged:
            self._has_logged = True
            log.warning(
                "more than %d environments of a policy are in an episode: those of the others are recorded, "
                "but not as whole ones",
                _MOST_ENVIRONMENTS,
            )
        self._places = self._places[kept]
        self._names = [self._names[number] for number in kept.tolist()]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._keys = self._of_keys = np.empty(0, np.int64)
