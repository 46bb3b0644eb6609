"""A reader's place in a row log ⇄ the text that it carries from read to read."""

from __future__ import annotations

import base64
import binascii
import os
import struct
import zlib
from typing import NamedTuple

from app.errors import DoesNotFit, Problem

# The log that it belongs to, the number of the next row, and the reader, by which it is counted.
_FORM = struct.Struct(">8sq6s")
_CHECK_BYTES = 4
# From now on.
END = "end"


class Cursor(NamedTuple):
    """What a cursor says. `log`: 8 bytes; `reader`: 6 bytes."""

    log: bytes
    row: int
    reader: bytes

    def text(self) -> str:
        """Returns the text from which `read_cursor` reads it."""
        data = _FORM.pack(*self)
        return base64.urlsafe_b64encode(data + _check(data)).decode()


def new_reader() -> bytes:
    """Returns the name of a reader that has had no cursor yet."""
    return os.urandom(6)


def read_cursor(text: str) -> Cursor:
    """Reads the text of a cursor.

    Raises:
      DoesNotFit: it is none, or was changed.
    """
    try:
        data = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise unfit(text, "") from None
    if len(data) != _FORM.size + _CHECK_BYTES or _check(data[: _FORM.size]) != data[_FORM.size :]:
        raise unfit(text, "")
    return Cursor(*_FORM.unpack(data[: _FORM.size]))


def unfit(text: str, why: str) -> DoesNotFit:
    """Returns the refusal of a cursor. `why`: what is wrong, where it is one."""
    expected = "the cursor of an answer as it came, or none: to begin with the oldest row"
    return DoesNotFit([Problem("cursor", f"{text[:60]!r}{why}", expected)])


def _check(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECK_BYTES, "big")
