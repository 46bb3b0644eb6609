"""A column of texts of which many are the same, as each of them and which rows have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from app.wire.tensors import Array


class Texts:
    """The text of row i is `texts[numbers[i]]`.

    `keys`: for each of `texts` an integer that says, in all columns of its name, what this text and those beside it
    are, so that nobody has to compare them; None where there are none.
    """

    def __init__(self, texts: Sequence[str], numbers: Array, keys: Array | None = None) -> None:
        self.texts = texts
        self.numbers = numbers
        self.keys = keys

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> str:
        return self.texts[int(self.numbers[row])]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def tolist(self) -> list[str]:
        """Returns the text of each row."""
        texts = self.texts
        return [texts[number] for number in self.numbers.tolist()]

    def taken(self, rows: Array) -> Texts:
        """Returns those of these rows."""
        return Texts(self.texts, self.numbers[rows], self.keys)


def joined(parts: Sequence[Texts]) -> Texts:
    """Returns the rows of all parts."""
    texts: list[str] = []
    numbers = []
    for part in parts:
        numbers.append(part.numbers + len(texts))
        texts.extend(part.texts)
    keys = [part.keys for part in parts if part.keys is not None]
    return Texts(texts, np.concatenate(numbers), np.concatenate(keys) if len(keys) == len(parts) else None)
