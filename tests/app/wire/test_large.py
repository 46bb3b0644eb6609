"""Large bodies, read a piece at a time, beside the same bodies read as a whole."""

import json
import random
import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from app.errors import DoesNotFit, NotJson, NotMsgpack, PolicyServerError
from app.inputs.options import read_options
from app.inputs.validate import InputValidator
from app.wire import json_ends, large_json, large_msgpack, long_lists
from app.wire.codecs import JSON, MSGPACK, Codec
from saver.artifact import Leaf, PolicySpec
from tests.app.inputs.test_typed import SPECS, UNTYPED, bodies
from tests.support import request_bodies
from tests.support.specs import LSTM_STATE, NESTED, custom_spec, policy_spec

ROWS = 100
MORE = {
    "text": UNTYPED["text"],
    "texts": policy_spec(Leaf("0/observation", "string", (2,))),
    "any size": UNTYPED["any size"],
    "large numbers": UNTYPED["large numbers"],
    "state of one": policy_spec(state=Leaf("1", "float32", (3,))),
}
ALL = SPECS | MORE


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of a few bytes are large."""
    for module in (long_lists, json_ends, large_json, large_msgpack):
        for name, size in (("PIECE_BYTES", 48), ("SHORT_BYTES", 12), ("_STEP", 7)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, size)
    monkeypatch.setattr(large_msgpack, "_MOST_ITEM_BYTES", 4096)


def outcome(spec: PolicySpec, codec: Codec, body: bytes, large: bool, **more: Any) -> Any:
    """What is read, or the error."""
    reader = InputValidator(spec, rows_limit=ROWS, strict_bounds=False, **more)
    try:
        fields = codec.decode_large(body, reader.most_keys) if large else codec.decode(body)
        options = read_options(fields.pop("options", {}))
        return reader.read(fields), options
    except PolicyServerError as error:
        return error


def check_alike(spec: PolicySpec, codec: Codec, body: bytes, **more: Any) -> bool:
    """Whether both read it."""
    found, wanted = (outcome(spec, codec, body, large, **more) for large in (True, False))
    if isinstance(wanted, PolicyServerError):
        assert isinstance(found, PolicyServerError), (body, wanted)
        assert type(found) in (type(wanted), DoesNotFit), (body, found, wanted)
        return False
    assert not isinstance(found, PolicyServerError), (body, found)
    request_bodies.check_alike(found, wanted)
    return True


def a_body(name: str, draw: random.Random) -> dict[str, Any]:
    if name in SPECS:
        return bodies(SPECS[name], draw)
    rows = draw.randint(1, 20)

    def word() -> str:
        return draw.choice(
            ["", "a", 'quo"te', "back\\slash", "[", "],[", "{", "\N{CYRILLIC SMALL LETTER KA}", "x" * 30]
        )

    value: Any = {
        "text": [word() for _ in range(rows)],
        "texts": [[word(), word()] for _ in range(rows)],
        "any size": [[draw.random()] * 3 for _ in range(rows)],
        "large numbers": [draw.choice([0, 2**63, 2**64 - 1, 7]) for _ in range(rows)],
        "state of one": [[0.5, 1, 2, 3]] * rows,
    }[name]
    more = {"policy_state": [[1, 2, 3.5]] * rows} if name == "state of one" else {}
    one = draw.random() < 0.2
    found = {"observation": value[0] if one else value}
    return found | ({key: item[0] for key, item in more.items()} if one else more)


WRONG = [
    b"",
    b"1",
    b"-",
    b".",
    b"[",
    b"]",
    b",",
    b" ",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"true",
    b"null",
    b"1e39",
    b"[]",
    b"NaN",
    b"\xff",
    b"],[",
    b":",
    b"9" * 30,
]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", ALL)
def test_a_large_json_body_is_read_as_a_small_one_is(name: str, full: bool) -> None:
    draw, spec, read = random.Random(name), ALL[name], 0
    for _ in range(2000 if full else 50):
        text = json.dumps(a_body(name, draw), indent=draw.choice([None, None, 1]), ensure_ascii=draw.random() < 0.5)
        read += check_alike(spec, JSON, text.encode())
        body = bytearray(text.encode())
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(body))
            body[place : place + draw.randint(0, 2)] = draw.choice(WRONG)
        check_alike(spec, JSON, bytes(body))
    assert read > 25


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", ALL)
def test_a_large_msgpack_body_is_read_as_a_small_one_is(name: str, full: bool) -> None:
    draw, spec, read = random.Random(name), ALL[name], 0
    for _ in range(2000 if full else 50):
        packed = msgspec.msgpack.encode(a_body(name, draw))
        read += check_alike(spec, MSGPACK, packed)
        body = bytearray(packed)
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(1, len(body))
            body[place : place + draw.randint(0, 2)] = bytes([draw.randrange(256) for _ in range(draw.randint(0, 2))])
        check_alike(spec, MSGPACK, bytes(body))
    assert read > 25


@pytest.mark.usefixtures("small_pieces")
def test_tensors_beside_long_lists_are_read_alike() -> None:
    tensor = {"dtype": "float32", "shape": [30, 4], "data": np.arange(120, dtype=np.float32).tobytes()}
    lists = np.arange(90, dtype=float).reshape(30, 3).tolist()
    spec = policy_spec(state=LSTM_STATE)
    body = msgspec.msgpack.encode({"observation": tensor, "policy_state": [lists, lists]})
    assert check_alike(spec, MSGPACK, body)
    camera = {"dtype": "uint8", "shape": [30, 2, 2], "data": bytes(120)}
    joints = [lists, [1] * 30]
    nested = {"camera": camera, "speed": [0.5] * 30, "joints": joints}
    assert not check_alike(policy_spec(NESTED), MSGPACK, msgspec.msgpack.encode({"observation": nested}))
    nested["joints"] = [[[1, 2]] * 30, [1] * 30]
    assert check_alike(policy_spec(NESTED), MSGPACK, msgspec.msgpack.encode({"observation": nested}))


ROW = b"[0.1,-0.25,3.5,0.125]"
FLAT = policy_spec()


def problem_of(body: bytes, spec: PolicySpec = FLAT, codec: Codec = JSON, rows_limit: int = 65_536, **more: Any) -> Any:
    reader = InputValidator(spec, rows_limit=rows_limit, strict_bounds=False, **more)
    with pytest.raises(DoesNotFit) as caught:
        reader.read(codec.decode_large(body, reader.most_keys))
    return caught.value.problems[0]


def rows_with(last: bytes, count: int = 50_000) -> bytes:
    return b'{"observation":[' + (ROW + b",") * (count - 1) + last + b"]}"


@pytest.mark.parametrize(
    ("last", "where", "problem"),
    [
        (b'[1,2,3,"x"]', "observation[49999][3]", "the string 'x'"),
        (b"[1,2,3,NaN]", "observation[49999][3]", "NaN"),
        (b"[1,2,3,1e999]", "observation[49999][3]", "Infinity"),
        (b"[1,2,3,true]", "observation[49999][3]", "true"),
        (b"[1,2,3]", "observation[49999]", "3 items"),
        (b"7", "observation[49999]", "7"),
        (b"{}", "observation[49999]", "an object"),
    ],
)
def test_the_last_of_many_rows_is_named(last: bytes, where: str, problem: str) -> None:
    found = problem_of(rows_with(last))
    assert (found.where, found.problem) == (where, problem)


def test_too_many_rows_are_counted_exactly() -> None:
    assert problem_of(rows_with(ROW), rows_limit=1000).problem == "50000 rows"
    packed = msgspec.msgpack.encode({"observation": [[0.5, 1, 2, 3]] * 50_000})
    assert problem_of(packed, codec=MSGPACK, rows_limit=1000).problem == "50000 rows"


def pieces_read(monkeypatch: pytest.MonkeyPatch, body: bytes, codec: Codec) -> int:
    """How many pieces are looked at before a body is refused."""
    pieces = 0
    read = long_lists.read_tensor

    def counting(*arguments: Any) -> Any:
        nonlocal pieces
        pieces += 1
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(long_lists, "read_tensor", counting)
        problem_of(body, codec=codec)
    return pieces


def packed_list(item: bytes, count: int) -> bytes:
    return b"\x81\xabobservation\xdd" + struct.pack(">I", count) + item * count


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (JSON, b'{"observation":[' + b"[]," * 2_000_000 + b"[]]}"),
        (JSON, b'{"observation":[' + b"{}," * 2_000_000 + b"{}]}"),
        (JSON, b'{"observation":[' + b"[[],[]]," * 1_000_000 + b"[]]}"),
        (JSON, b'{"observation":[' + b'"0.1",' * 1_000_000 + b"1]}"),
        (JSON, b'{"observation":[[' + b"1," * 3_000_000 + b"1]]}"),
        (JSON, b'{"observation":[[1,' + b" " * 6_000_000 + b"2,3,4]]}"),
        (JSON, b'{"observation":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"),
        (JSON, b'{"observation":"' + b'\\"' * 3_000_000 + b'"}'),
        (MSGPACK, packed_list(b"\x90", 4_000_000)),
        (MSGPACK, packed_list(b"\x80", 4_000_000)),
        (MSGPACK, packed_list(b"\x91\x91\x90", 1_000_000)),
        (MSGPACK, packed_list(b"\xd4\x05\x00", 1_000_000)),
        (MSGPACK, packed_list(b"\xa1x", 1_000_000)),
    ],
)
def test_what_cannot_fit_is_refused_at_its_first_piece(
    monkeypatch: pytest.MonkeyPatch, codec: Codec, body: bytes
) -> None:
    assert pieces_read(monkeypatch, body, codec) <= 1


@pytest.mark.parametrize(
    ("codec", "body", "error"),
    [
        (JSON, b"{" + b",".join(b'"k%d":1' % i for i in range(20_000)) + b"}", DoesNotFit),
        (JSON, b"{" + b'"observation":[1,2,3,4],' * 20_000 + b'"reward":1}', DoesNotFit),
        (JSON, b'{"' + b"k" * 200_000 + b'":1}', DoesNotFit),
        (JSON, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, NotJson),
        (JSON, b'{"observation":' + b"9" * 200_000 + b"}", NotJson),
        (JSON, b" " * 200_000 + b'{"observation":1}', NotJson),
        (JSON, b'{"observation":[' + b"1," * 100_000, NotJson),
        (JSON, b'{"observation":"' + b"x" * 100_000, NotJson),
        (JSON, rows_with(ROW)[:-1] + b"]", NotJson),
        (JSON, rows_with(ROW) + b"x", NotJson),
        (JSON, b"[" + b"1," * 100_000 + b"1]", NotJson),
        (JSON, b"\xef\xbb\xbf" + rows_with(ROW), NotJson),
        (MSGPACK, b"\xdf\xff\xff\xff\xff" + b"\xa1a\x01" * 50_000, DoesNotFit),
        (MSGPACK, b"\x81\xabobservation" + b"\x81\xa1a" * 100_000 + b"\x01", NotMsgpack),
        (MSGPACK, b"\x81\xabobservation" + b"\x91" * 100_000 + b"\x01", NotMsgpack),
        (MSGPACK, b"\x81\xabobservation\xdb\xff\xff\xff\xff" + b"x" * 100_000, NotMsgpack),
        (MSGPACK, b"\x81\xabobservation\xdd\xff\xff\xff\xff" + b"\x01" * 100_000, NotMsgpack),
        (MSGPACK, packed_list(b"\x90", 100_000)[:-1], NotMsgpack),
        (MSGPACK, packed_list(b"\x90", 100_000) + b"\x01", NotMsgpack),
        (MSGPACK, packed_list(b"\xc1", 100_000), NotMsgpack),
    ],
)
def test_what_is_no_body_is_refused(codec: Codec, body: bytes, error: type[Exception]) -> None:
    reader = InputValidator(FLAT, rows_limit=65_536, strict_bounds=False)
    with pytest.raises(error):
        reader.read(codec.decode_large(body, reader.most_keys))


def test_a_bracket_of_the_wrong_kind_ends_no_list() -> None:
    body = b'{"observation":[' + (ROW + b",") * 3000 + ROW + b"}}"
    with pytest.raises(NotJson):
        JSON.decode_large(body, 100)


def test_integers_with_a_point_are_named_among_many() -> None:
    spec = policy_spec(Leaf("0/observation", "int64", ()))
    found = problem_of(b'{"observation":[' + b"7," * 60_000 + b"1.0]}", spec)
    assert (found.where, found.problem) == ("observation[60000]", "1.0")


def test_a_bytearray_is_read_as_bytes_are() -> None:
    for codec, body in (
        (JSON, rows_with(ROW)),
        (MSGPACK, msgspec.msgpack.encode({"observation": [[1, 2, 3, 4]] * 9999})),
    ):
        reader = InputValidator(FLAT, rows_limit=65_536, strict_bounds=False)
        wanted = reader.read(codec.decode_large(body, 100)).arrays["0/observation"]
        found = reader.read(codec.decode_large(bytearray(body), 100)).arrays["0/observation"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, wanted)


def test_names_that_msgspec_does_not_have_are_read() -> None:
    spec = custom_spec({'quo"te': Leaf("a", "float32", ()), "back\\slash": Leaf("b", "float32", ())})
    assert check_alike(spec, JSON, json.dumps({'quo"te': 1, "back\\slash": 2}).encode())
