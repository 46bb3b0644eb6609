import pytest

from app.errors import UnknownMediaType
from app.wire.codecs import JSON, MSGPACK, reader_of, writer_of


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [
        ("", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/x-www-form-urlencoded", JSON),
        ("application/msgpack", MSGPACK),
        ("application/x-msgpack", MSGPACK),
        (" application/vnd.msgpack ; x=1", MSGPACK),
    ],
)
def test_content_type_names_the_codec(content_type, codec):
    assert reader_of(content_type) is codec


@pytest.mark.parametrize("content_type", ["text/csv", "application/msgpack+json", "*/*", "application"])
def test_other_content_types_are_refused_with_the_known_ones(content_type):
    with pytest.raises(UnknownMediaType, match="expected application/json or application/msgpack"):
        reader_of(content_type)


@pytest.mark.parametrize(
    ("accept", "reader", "writer"),
    [
        ("", JSON, JSON),
        ("", MSGPACK, MSGPACK),
        ("*/*", JSON, JSON),
        ("*/*", MSGPACK, MSGPACK),
        ("text/html", MSGPACK, MSGPACK),
        ("application/json", MSGPACK, JSON),
        ("application/json; q=0.9, text/html", MSGPACK, JSON),
        ("application/json, text/plain, */*", MSGPACK, MSGPACK),  # what some clients send always
        ("application/json, application/msgpack", MSGPACK, MSGPACK),
        ("application/json, application/msgpack", JSON, JSON),
        ("application/msgpack", JSON, MSGPACK),
        ("Application/X-Msgpack, */*", JSON, MSGPACK),
        ("application/*", JSON, JSON),
        (",", MSGPACK, MSGPACK),
    ],
)
def test_answer_has_the_codec_of_the_request_unless_only_the_other_is_named(accept, reader, writer):
    assert writer_of(accept, reader) is writer
