"""What reads and writes for a policy: one for all of the same spec."""

from typing import Any

from app.inference.spec_parts import AllSpecParts
from saver.artifact import Noise, ServingInfo, Signature, TensorInfo
from tests.support.specs import LSTM_STATE, policy_spec

ACTION: Any = {"action": Signature({}, {"action": TensorInfo("int64", (None,))})}
SERVING = ServingInfo({}, {}, Noise(0, 0), {})


def test_policies_of_one_spec_share_their_parts_and_others_have_their_own() -> None:
    made = AllSpecParts(rows_limit=7, strict_bounds=True, non_finite=True)
    specs = [policy_spec(state=state, signatures=ACTION) for state in ((), (), LSTM_STATE)]
    first, again, other = (made.of(spec, SERVING) for spec in specs)
    serving = ServingInfo({}, {}, Noise(0, 0), {"sample": "no"})
    assert again is first
    assert other is not first
    assert made.of(specs[0], serving) is not first
    assert (first.reader.rows_limit, first.reader.strict_bounds, first.reader.non_finite) == (7, True, True)
