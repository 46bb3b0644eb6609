"""Compressed bodies, from zlib itself; nothing stands for more than a piece at a time."""

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from app.api.encodings import PIECE_BYTES, Decoder, decoder_of
from app.errors import NotDecodable, UnknownEncoding

BODY = b'{"observation": [1, 2, 3, 4]}' * 1000


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


ENCODED = {"gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY), "bare deflate": raw_deflate(BODY)}


def decoded(decoder: Decoder, *parts: bytes) -> bytes:
    body = b"".join(piece for part in parts for piece in decoder.pieces(part))
    decoder.check_end()
    return body


def request(*encodings: str) -> Request:
    scope: dict[str, Any] = {"type": "http", "headers": [(b"content-encoding", name.encode()) for name in encodings]}
    return Request(scope)


@pytest.mark.parametrize("step", [1, 7, 10**6])
@pytest.mark.parametrize("name", ENCODED)
def test_a_body_is_decoded_however_it_is_cut(name: str, step: int) -> None:
    data, decoder = ENCODED[name], Decoder(name.split()[-1])
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    assert decoded(decoder, *parts) == BODY


def test_joined_gzip_files_are_one_body() -> None:
    assert decoded(Decoder("gzip"), gzip.compress(b"one") + gzip.compress(b"two")) == b"onetwo"


def test_files_of_bgzip_are_read_however_many_they_are() -> None:
    block = BODY[:65280].ljust(65280)
    joined = gzip.compress(block) * 1000 + gzip.compress(b"")
    assert decoded(Decoder("gzip"), joined) == block * 1000


def test_more_joined_files_than_their_bytes_need_are_refused() -> None:
    empty = gzip.compress(b"")
    assert decoded(Decoder("gzip"), empty * 200 + gzip.compress(BODY)) == BODY
    with pytest.raises(NotDecodable, match="joined gzip files"):
        decoded(Decoder("gzip"), gzip.compress(BODY) + empty * 1000)


def test_no_step_takes_more_than_a_piece_of_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    decompressed = Decoder._decompressed

    def noted(self: Decoder, part: bytes) -> bytes:
        sizes.append(len(part))
        return decompressed(self, part)

    monkeypatch.setattr(Decoder, "_decompressed", noted)
    body = random.Random(1).randbytes(2**20)
    assert decoded(Decoder("gzip"), gzip.compress(body)) == body
    assert max(sizes) <= PIECE_BYTES


@pytest.mark.parametrize("more", [-1, 0, 1, 2, 257, 258, 259])
@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress, raw_deflate])
def test_a_body_whose_end_is_also_that_of_a_piece_is_whole(encode: Callable[[bytes], bytes], more: int) -> None:
    body = b"a" * (2 * PIECE_BYTES + more)
    assert decoded(Decoder("gzip" if encode is gzip.compress else "deflate"), encode(body)) == body


def test_a_bomb_comes_in_bounded_pieces() -> None:
    bomb = gzip.compress(bytes(2**24))
    assert len(bomb) < 2**15
    sizes = [len(piece) for piece in Decoder("gzip").pieces(bomb)]
    assert sum(sizes) == 2**24
    assert max(sizes) <= PIECE_BYTES


@pytest.mark.parametrize(
    ("encoding", "data", "says"),
    [
        ("gzip", BODY, "the body is not gzip"),
        ("deflate", b"\xff" * 10, "the body is not deflate"),
        ("gzip", ENCODED["gzip"][:-1], "ends before its gzip stream"),
        ("deflate", ENCODED["deflate"][:-5], "ends before its deflate stream"),
        ("deflate", ENCODED["deflate"] + b"x", "goes on behind the end"),
        ("gzip", b"", "ends before"),
    ],
)
def test_what_is_not_in_the_encoding_is_refused(encoding: str, data: bytes, says: str) -> None:
    with pytest.raises(NotDecodable, match=says):
        decoded(Decoder(encoding), data)


@pytest.mark.parametrize("encodings", [(), ("",), ("identity",), ("identity, ",), ("Identity", "")])
def test_bodies_that_are_not_encoded_need_no_decoder(encodings: tuple[str, ...]) -> None:
    assert decoder_of(request(*encodings)) is None


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " deflate ", "identity, gzip"])
def test_known_encodings_have_a_decoder(encoding: str) -> None:
    assert decoder_of(request(encoding)) is not None


@pytest.mark.parametrize("encodings", [("br",), ("gzip, gzip",), ("gzip", "deflate"), ("zstd",)])
def test_other_encodings_are_refused_with_those_that_are_read(encodings: tuple[str, ...]) -> None:
    with pytest.raises(UnknownEncoding) as caught:
        decoder_of(request(*encodings))
    assert caught.value.accepted == "gzip, deflate"
