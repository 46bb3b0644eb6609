"""W3C Trace Context: which headers name a caller's span, and that nothing else does."""

import pytest
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.tracing.context import Parent, parent_in

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RIGHT = [f"00-{TRACE}-{SPAN}-{flags}" for flags in ("00", "01", "02", "03", "ff")]
RIGHT += [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", f"fe-{TRACE}-{SPAN}-00-"]
WRONG = [
    "", "-", "junk", TRACE, f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01-", f"cc-{TRACE}-{SPAN}-01.more", f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE}-{SPAN}", f"0-{TRACE}-{SPAN}-01", f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}-{SPAN}0-01",
    f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-0x", f"00_{TRACE}_{SPAN}_01", f"00-{TRACE[:-1]}g-{SPAN}-01",
]  # fmt: skip


def of(text: str, *states: str) -> Parent | None:
    return parent_in([(b"traceparent", text.encode()), *[(b"tracestate", state.encode()) for state in states]])


@pytest.mark.parametrize("text", RIGHT)
def test_a_right_one_is_read(text: str) -> None:
    found = of(text)
    assert found is not None
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}") == (TRACE, SPAN)
    assert found.sampled is (text[53:55] in ("01", "03", "ff"))


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_one_is_none(text: str) -> None:
    assert of(text, "a=1") is None


@pytest.mark.parametrize("text", [text for text in RIGHT + WRONG if text == text.lower()])
def test_it_is_what_the_library_reads(text: str) -> None:
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
    found = of(text)
    if found is None:
        assert not theirs.is_valid
    else:
        assert (theirs.trace_id, theirs.span_id, theirs.trace_flags.sampled) == found[:3]


def test_two_are_as_good_as_none_and_states_are_joined() -> None:
    one = (b"traceparent", RIGHT[1].encode())
    assert parent_in([]) is None
    assert parent_in([one, one]) is None
    found = of(RIGHT[1], "a=1", "b=2")
    assert found is not None
    assert found.state == "a=1,b=2"
    assert of(f" {RIGHT[1]}\t") == of(RIGHT[1])
