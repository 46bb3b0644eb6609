"""Compressed bodies → their bytes, in pieces of a bounded size: a small body may stand for a very large one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from fastapi import Request

from app.errors import NotDecodable, UnknownEncoding

# Decompressing so much takes a fraction of a millisecond, and any number of connections may have as much at once.
PIECE_BYTES = 64 * 1024
_ACCEPTED = "gzip, deflate"
_GZIP, _ZLIB, _RAW = 31, 15, -15
# The header of a stream of zlib's (RFC 1950): only with both bytes can it be distinguished from a bare one.
_HEADER_BYTES = 2
# Files of gzip may be joined, and each costs a decoder, even where it stands for nothing. Beside these few, those of
# bgzip are read, which have 64 KiB each.
_FEW_FILES = 256
_FILE_BYTES = 32 * 1024


def decoder_of(request: Request) -> Decoder | None:
    """Returns the decoder of a request's body; None where it is not encoded.

    Raises:
      UnknownEncoding: nothing does.
    """
    text = ",".join(request.headers.getlist("content-encoding"))
    encodings = [name for part in text.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not encodings:
        return None
    if encodings in (["gzip"], ["x-gzip"], ["deflate"]):
        return Decoder(encodings[0])
    raise UnknownEncoding(f"content encoding {', '.join(encodings)!r}, expected {_ACCEPTED} or none", _ACCEPTED)


class Decoder:
    """Decodes one body. `deflate` is zlib's format, or, as some clients have it, the bare stream."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._is_gzip = encoding != "deflate"
        self._stream = zlib.decompressobj(_GZIP if self._is_gzip else _ZLIB)
        self._started = False
        self._first = b""
        self._files = 1
        self._size = 0

    def pieces(self, part: bytes) -> Iterator[bytes]:
        """Yields the bytes that a part of the body stands for, none or at most `PIECE_BYTES` at a time.

        Raises:
          NotDecodable: it is not in the encoding.
        """
        if not self._started:
            part = self._first + part
            if len(part) < _HEADER_BYTES:
                self._first = part
                return
        view = memoryview(part)
        for at in range(0, len(view), PIECE_BYTES):
            # zlib copies what it leaves of its input, in each step.
            yield from self._pieces(view[at : at + PIECE_BYTES])

    def _pieces(self, part: bytes | memoryview) -> Iterator[bytes]:
        full = False
        while part or full:
            if self._stream.eof:
                self._start_next_file()
            piece = self._decompressed(part)
            self._size += len(piece)
            yield piece
            part = self._stream.unconsumed_tail or self._stream.unused_data
            # All was taken in, and its last bytes may not have come out yet.
            full = len(piece) == PIECE_BYTES and not self._stream.eof

    def _start_next_file(self) -> None:
        if not self._is_gzip:
            raise NotDecodable("the body goes on behind the end of its deflate stream")
        self._files += 1
        if self._files > _FEW_FILES + self._size // _FILE_BYTES:
            raise NotDecodable(f"the body is more than {_FEW_FILES} joined gzip files, with {self._size} bytes in them")
        self._stream = zlib.decompressobj(_GZIP)

    def check_end(self) -> None:
        """Checks that the body ended where it should.

        Raises:
          NotDecodable: its encoding has not.
        """
        if not self._stream.eof:
            raise NotDecodable(f"the body ends before its {self._encoding} stream does")

    def _decompressed(self, part: bytes | memoryview) -> bytes:
        started, self._started = self._started, True
        try:
            return self._stream.decompress(part, PIECE_BYTES)
        except zlib.error as error:
            if not started and not self._is_gzip:
                self._stream = zlib.decompressobj(_RAW)
                return self._decompressed(part)
            raise NotDecodable(f"the body is not {self._encoding}: {error}") from None
