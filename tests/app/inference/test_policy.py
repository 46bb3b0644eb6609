import pytest

from app.batching.rule import INITIAL_STATE
from app.wire.codecs import JSON, MSGPACK
from app.wire.limits import SMALL_BYTES
from tests.support.openapi import policy
from tests.support.specs import policy_spec


@pytest.mark.parametrize(("setting", "largest"), [(0, 67_808), (1_000, 1_000), (10**6, 10**6)])
def test_a_body_is_as_large_as_the_setting_says_or_the_largest_batch_takes(setting: int, largest: int) -> None:
    one = policy(policy_spec(), body_limit_bytes=setting)
    assert one.body_limit("action", JSON) == largest
    assert one.body_limit(INITIAL_STATE, JSON) == min(SMALL_BYTES, setting or SMALL_BYTES)


def test_msgpack_takes_less_room() -> None:
    one = policy(policy_spec(), body_limit_bytes=0)
    assert SMALL_BYTES < one.body_limit("action", MSGPACK) < one.body_limit("action", JSON)
