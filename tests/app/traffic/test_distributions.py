import numpy as np
import pytest

from app.traffic.distributions import Distributions
from saver.artifact import DistributionInfo, Leaf, Nest, Noise, PolicySpec, ServingInfo

DIAGONAL = DistributionInfo("multivariate_normal_diag", ("loc", "scale_diag"), ("mean",))
ARM = Leaf("arm", "float32", (2,))


def distributions(
    infos: dict[str, DistributionInfo], action: Nest = ARM, info: Nest = (), reason: str = ""
) -> Distributions:
    spec = PolicySpec({}, action, (), info, (), None, True, {})
    unavailable = {"distribution": reason} if reason else {}
    return Distributions(spec, ServingInfo({}, infos, Noise(0, 0), unavailable))


def test_parameters_that_the_info_of_a_ppo_policy_has_are_read_from_there():
    info = {"dist_params": {"loc": Leaf("p", "float32", (2,)), "scale_diag": Leaf("q", "float32", (2,))}}
    found = distributions({"arm": DIAGONAL}, info=info)
    assert found.recorded == {
        "arm/loc": "policy_info/dist_params/loc",
        "arm/scale_diag": "policy_info/dist_params/scale_diag",
    }
    called_otherwise = {"dist_params": {"loc": Leaf("p", "float32", (2,)), "scale": Leaf("q", "float32", (2,))}}
    assert distributions({"arm": DIAGONAL}, info=called_otherwise).recorded == {
        "arm/loc": "policy_info/dist_params/loc",
        "arm/scale_diag": "policy_info/dist_params/scale",
    }
    assert distributions({"arm": DIAGONAL}, info={"dist_params": {"loc": ARM}}).recorded == {}
    assert distributions({"arm": DIAGONAL}).recorded == {}


def test_the_divergences_of_the_leaves_of_an_action_add_up():
    action = {"arm": ARM, "grip": Leaf("grip", "int64", ())}
    found = distributions({"arm": DIAGONAL, "grip": DistributionInfo("categorical", ("logits", "probs"), ())}, action)
    assert (found.reason, found.recorded) == ("", {})
    same = {"arm/loc": np.zeros((3, 2)), "arm/scale_diag": np.ones((3, 2)), "grip/logits": np.zeros((3, 4))}
    other = same | {"arm/loc": np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])}
    other["grip/logits"] = np.log([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 5]])
    expected = [0, 0.5, -(3 * np.log(4 / 8) + np.log(5 * 4 / 8)) / 4]
    np.testing.assert_allclose(found.apart(same, other), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("infos", "reason", "expected"),
    [
        ({}, "not exported", "not exported"),
        ({}, "", "action has none"),
        ({"arm": DistributionInfo("mixture", (), ())}, "", "that of action is of the family mixture"),
        ({"arm": DistributionInfo("normal", ("loc", "scale"), (), {"random": True})}, "", "differs from call to call"),
    ],
)
def test_what_cannot_be_compared_says_why(infos, reason, expected):
    assert expected in distributions(infos, reason=reason).reason
