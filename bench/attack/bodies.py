"""Bodies that do not fit, or fit and are large: each kind a name, the policy and route it is for, and its bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

JSON, MSGPACK = "application/json", "application/msgpack"
ROW = b"[0.1,-0.25,3.5,0.125]"


class Body(NamedTuple):
    """One kind of body. `make` gives its bytes, which may be more than the server reads."""

    name: str
    policy: str
    media_type: str
    make: Callable[[], bytes]
    route: str = "action"


def _json(value: bytes, key: bytes = b"observation") -> bytes:
    return b'{"' + key + b'":' + value + b"}"


def _many(item: bytes, size: int) -> bytes:
    """A JSON list of so many bytes."""
    return b"[" + (item + b",") * (size // (len(item) + 1)) + item + b"]"


def _pack(value: bytes, key: bytes = b"observation") -> bytes:
    return b"\x81" + bytes([0xA0 + len(key)]) + key + value


def _array(count: int, items: bytes) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + items


def _tensor(dtype: bytes, shape: tuple[int, ...], data: bytes, promised: int | None = None) -> bytes:
    sizes = b"".join(b"\xcf" + struct.pack(">Q", size) for size in shape)
    length = struct.pack(">I", len(data) if promised is None else promised)
    name = bytes([0xA0 + len(dtype)]) + dtype
    return b"\x83\xa5dtype" + name + b"\xa5shape" + bytes([0x90 + len(shape)]) + sizes + b"\xa4data\xc6" + length + data


def _rows(count: int, last: bytes = ROW) -> bytes:
    return b"[" + (ROW + b",") * (count - 1) + last + b"]"


def _packed_rows(count: int, last: bytes | None = None) -> bytes:
    row = b"\x94" + b"\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a" * 4
    return _pack(_array(count, row * (count - 1) + (row if last is None else last)))


def _image(rows: int) -> bytes:
    line = b"[" + b",".join([b"[12,0,255,7]"] * 84) + b"]"
    frame = b"[" + b",".join([line] * 84) + b"]"
    return b"[" + b",".join([frame] * rows) + b"]"


LARGEST = 65_536


def in_json() -> Iterator[Body]:
    """As JSON, for four floats where nothing else is said."""

    def one(name: str, make: Callable[[], bytes], policy: str = "small", route: str = "action") -> Body:
        return Body(name, policy, JSON, make, route)

    yield one("9 million empty lists", lambda: _json(_many(b"[]", 27_000_000)))
    yield one("16 MB of empty lists", lambda: _json(_many(b"[]", 16_000_000)))
    yield one("8 MB of empty objects", lambda: _json(_many(b"{}", 8_000_000)))
    yield one("rows, and then empty objects", lambda: _json(_rows(60_000)[:-1] + b"," + _many(b"{}", 8_000_000)[1:]))
    yield one("largest batch, all good", lambda: _json(_rows(LARGEST)))
    yield one("largest batch, last row bad", lambda: _json(_rows(LARGEST, b'[1,2,3,"x"]')))
    yield one("largest batch, last row short", lambda: _json(_rows(LARGEST, b"[1,2,3]")))
    yield one("largest batch, one NaN", lambda: _json(_rows(LARGEST, b"[1,2,3,NaN]")))
    yield one("largest batch, one 1e999", lambda: _json(_rows(LARGEST, b"[1,2,3,1e999]")))
    yield one("largest batch, rows of three", lambda: _json(_many(b"[1,2,3]", 8 * LARGEST)))
    yield one("largest batch, ends in the middle", lambda: _json(_rows(LARGEST))[:-9])
    yield one("one row too many", lambda: _json(_rows(LARGEST + 1)))
    yield one("a million short rows", lambda: _json(_many(b"[1,2,3,4]", 10_000_000)))
    yield one("list of 8 million numbers", lambda: _json(_many(b"1", 16_000_000)))
    yield one("one row of 8 million numbers", lambda: _json(b"[" + _many(b"1", 16_000_000) + b"]"))
    yield one("100,000 levels of lists", lambda: _json(b"[" * 100_000 + b"]" * 100_000))
    yield one("8 million levels of lists", lambda: _json(b"[" * 8_000_000 + b"]" * 8_000_000))
    yield one("a million levels of objects", lambda: b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000)
    yield one("a million fields", lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(1_000_000)) + b"}")
    yield one("5,000 fields", lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(5_000)) + b"}")
    yield one("one field a million times", lambda: b"{" + b'"observation":[1,2,3,4],' * 500_000 + b'"reward":1}')
    yield one("a name of 16 MB", lambda: _json(ROW, b"k" * 16_000_000))
    yield one("names in other scripts", lambda: b"{" + '"ключ€":1,'.encode() * 3_000 + b'"a":1}')
    yield one("a string of 16 MB", lambda: _json(b'"' + b"x" * 16_000_000 + b'"'))
    yield one("a string of 8 million escapes", lambda: _json(b'"' + b'\\"' * 8_000_000 + b'"'))
    yield one("a string of 60 million backslashes", lambda: _json(b'"' + b"\\" * 60_000_000 + b'"'), "word")
    yield one("a string of \\u escapes", lambda: _json(b'"' + b"\\u0041" * 2_500_000 + b'"'))
    yield one("2 million strings", lambda: _json(_many(b'"0.1"', 12_000_000)))
    yield one("an integer of a million digits", lambda: _json(b"[1,2,3," + b"9" * 1_000_000 + b"]"))
    yield one("an integer of 60,000 digits", lambda: _json(b"[1,2,3," + b"9" * 60_000 + b"]"))
    yield one("floats of 1,000 digits", lambda: _json(_many(b"[0." + b"1" * 1000 + b",0,0,0]", 16_000_000)))
    yield one("exponents", lambda: _json(_many(b"[1e-308,1e308,-1e-300,1E+300]", 16_000_000)))
    yield one("16 MB of space", lambda: _json(b"[" + b" " * 16_000_000 + b"1,2,3,4]"))
    yield one("space before every number", lambda: _json(_many(b"[" + b" " * 200 + b"1,2,3,4]", 16_000_000)))
    yield one("16 MB of nothing but space", lambda: b" " * 16_000_000)
    yield one("a byte order mark", lambda: b"\xef\xbb\xbf" + _json(_rows(10_000)))
    yield one("no UTF-8 at the end", lambda: _json(_rows(10_000))[:-1] + b',"a":"\xff"}')
    yield one("no JSON at all", lambda: b"\x00" * 16_000_000)
    yield one("a bare list", lambda: _rows(100_000))
    yield one(
        "nested policy_state",
        lambda: b'{"observation":' + ROW + b',"policy_state":' + _many(b"[[]]", 8_000_000) + b"}",
        "recurrent",
    )
    yield one(
        "policy_state of objects",
        lambda: b'{"observation":' + ROW + b',"policy_state":' + _many(b'{"a":{}}', 8_000_000) + b"}",
        "recurrent",
    )
    yield one(
        "options of a million fields",
        lambda: b'{"observation":' + ROW + b',"options":{' + b",".join(b'"o%d":1' % i for i in range(500_000)) + b"}}",
    )
    yield one("600 images", lambda: _json(_image(600)), "image")
    yield one("150 images, all good", lambda: _json(_image(150)), "image")
    yield one("150 images, last pixel 256", lambda: _json(_image(150)[:-8] + b"256]]]]"), "image")
    yield one("images of empty lists", lambda: _json(_many(b"[[],[]]", 60_000_000)), "image")
    yield one("largest batch of integers", lambda: _json(_many(b"7", 2 * LARGEST - 2)), "number")
    yield one("integers, one of them 1.0", lambda: _json(_many(b"7", 2 * LARGEST - 8)[:-1] + b",1.0]"), "number")
    yield one("10 MB of strings", lambda: _json(_many(b'"word"', 10_000_000)), "word")
    yield one("65,536 strings", lambda: _json(_many(b'"' + b"w" * 200 + b'"', 203 * LARGEST)), "word")
    yield one("empty lists for strings", lambda: _json(_many(b"[]", 16_000_000)), "word")
    yield one("one string of 60 MB", lambda: _json(b'"' + b"x" * 60_000_000 + b'"'), "word")
    yield one("largest batch, distribution", lambda: _json(_rows(LARGEST)), "small", "distribution")
    yield one(
        "batch_size of a thousand million", lambda: b'{"batch_size":1000000000}', "recurrent", "get_initial_state"
    )
    yield one("initial states, as many as may be", lambda: b'{"batch_size":32768}', "recurrent", "get_initial_state")
    yield one("a session of the largest batch", lambda: _json(_rows(LARGEST)), "small", "sessions")
    yield one("a session of empty lists", lambda: _json(_many(b"[]", 16_000_000)), "recurrent", "sessions")
    yield one(
        "a session's `first` of a million",
        lambda: b'{"observation":' + ROW + b',"first":' + _many(b"true", 5_000_000) + b"}",
        "small",
        "sessions",
    )


def in_msgpack() -> Iterator[Body]:
    """As msgpack, for four floats where nothing else is said."""

    def one(name: str, make: Callable[[], bytes], policy: str = "small", route: str = "action") -> Body:
        return Body(name, policy, MSGPACK, make, route)

    yield one("9 million empty arrays", lambda: _pack(_array(9_000_000, b"\x90" * 9_000_000)))
    yield one("9 million empty maps", lambda: _pack(_array(9_000_000, b"\x80" * 9_000_000)))
    yield one("4 MB of empty arrays", lambda: _pack(_array(4_000_000, b"\x90" * 4_000_000)))
    yield one("4 MB of empty maps", lambda: _pack(_array(4_000_000, b"\x80" * 4_000_000)))
    yield one("64 KB of empty maps", lambda: _pack(_array(65_000, b"\x80" * 65_000)))
    yield one("64 KB of empty arrays", lambda: _pack(_array(65_000, b"\x90" * 65_000)))
    yield one("largest batch, all good", lambda: _packed_rows(LARGEST))
    yield one("largest batch, last row bad", lambda: _packed_rows(LARGEST, b"\x94\xa1x\x01\x02\x03"))
    yield one("largest batch, last row short", lambda: _packed_rows(LARGEST, b"\x93\x01\x02\x03"))
    yield one("largest batch, one NaN", lambda: _packed_rows(LARGEST, b"\x94\x01\x02\x03\xcb\x7f\xf8" + b"\0" * 6))
    yield one("largest batch, ends in the middle", lambda: _packed_rows(LARGEST)[:-5])
    yield one("an array that promises 4 thousand million", lambda: _pack(_array(2**32 - 1, b"\x01" * 100_000)))
    yield one("a string that promises 4 GB", lambda: _pack(b"\xdb\xff\xff\xff\xff" + b"x" * 100_000))
    yield one("a map that promises 4 thousand million", lambda: b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 100_000)
    yield one("a tensor that promises 4 GB", lambda: _pack(_tensor(b"float32", (4,), b"\0" * 100_000, 2**32 - 1)))
    yield one("a tensor of another shape", lambda: _pack(_tensor(b"float32", (10**9, 4), b"\0" * 1_000_000)))
    yield one("a tensor of no size", lambda: _pack(_tensor(b"float32", (10**18, 0, 4), b"")))
    yield one("largest tensor", lambda: _pack(_tensor(b"float64", (LARGEST, 4), b"\0" * (32 * LARGEST))))
    yield one(
        "tensor with one NaN",
        lambda: _pack(_tensor(b"float32", (LARGEST, 4), b"\0" * (16 * LARGEST - 4) + b"\0\0\xc0\x7f")),
    )
    yield one("100,000 levels of arrays", lambda: _pack(b"\x91" * 100_000 + b"\x01"))
    yield one("4 million levels of arrays", lambda: _pack(b"\x91" * 4_000_000 + b"\x01"))
    yield one("100,000 levels of maps", lambda: _pack(b"\x81\xa1a" * 100_000 + b"\x01"))
    yield one(
        "500,000 fields",
        lambda: b"\xdf" + struct.pack(">I", 500_000) + b"".join(b"\xa7%07d\x01" % i for i in range(500_000)),
    )
    yield one("one field 500,000 times", lambda: b"\xdf" + struct.pack(">I", 500_000) + b"\xa6reward\x01" * 500_000)
    yield one("extensions", lambda: _pack(_array(1_000_000, b"\xd4\x05\x00" * 1_000_000)))
    yield one("dates", lambda: _pack(_array(600_000, b"\xd6\xff\x00\x00\x00\x01" * 600_000)))
    yield one("strings", lambda: _pack(_array(2_000_000, b"\xa1x" * 2_000_000)))
    yield one(
        "nested policy_state",
        lambda: b"\x82\xabobservation\x94\x01\x02\x03\x04\xacpolicy_state" + _array(2_000_000, b"\x91\x90" * 2_000_000),
        "recurrent",
    )
    yield one(
        "policy_state of maps",
        lambda: (
            b"\x82\xabobservation\x94\x01\x02\x03\x04\xacpolicy_state" + _array(1_000_000, b"\x81\xa1a\x80" * 1_000_000)
        ),
        "recurrent",
    )
    yield one("300 levels of large arrays", lambda: _pack(b"\x91" * 300 + _array(4_000_000, b"\x90" * 4_000_000)))
    yield one("image: 60 MB of empty arrays", lambda: _pack(_array(60_000_000, b"\x90" * 60_000_000)), "image")
    yield one("image: 60 MB of empty maps", lambda: _pack(_array(60_000_000, b"\x80" * 60_000_000)), "image")
    yield one(
        "image: 60 MB of pixels", lambda: _pack(_tensor(b"uint8", (2000, 84, 84, 4), b"\x07" * 28224 * 2000)), "image"
    )
    yield one(
        "image: arrays, last pixel bad",
        lambda: _pack(
            _array(300, (b"\xdc\x00\x54" + (b"\xdc\x00\x54" + b"\x94\x01\x02\x03\x04" * 84) * 84) * 299 + b"\x01")
        ),
        "image",
    )
    yield one("a session of empty maps", lambda: _pack(_array(4_000_000, b"\x80" * 4_000_000)), "recurrent", "sessions")
    yield one(
        "initial states, as many as may be", lambda: b"\x81\xaabatch_size\xcd\x7f\xff", "recurrent", "get_initial_state"
    )


def all_of_them() -> list[Body]:
    """Every kind."""
    return [*in_json(), *in_msgpack()]
