import numpy as np

from app.replay.picture_data import BINS, Along, Joints
from saver.artifact import Leaf


def test_the_recording_is_cut_into_equal_pieces():
    along = Along(rows=2 * BINS)
    along.add(np.array([0, 1, 2, 2 * BINS - 1]), np.array([True, False, True, True]))
    along.add_divergence(np.array([0, 1, 2]), np.array([1.0, 3.0, np.inf]))
    assert along.compared.tolist() == [2, 1] + [0] * (BINS - 3) + [1]
    assert along.agree.tolist() == [1, 1] + [0] * (BINS - 3) + [1]
    assert (along.diverged[0], along.divergence[0], along.diverged[1]) == (2, 4, 0)


def test_a_discrete_action_has_a_cell_for_each_value():
    joints = Joints(Leaf("action", "int64", (), 1, 3))
    joints.add({"action": np.array([1, 1, 3, 2])}, {"action": np.array([1, 3, 3, 1])})
    joints.add({"action": np.array([1])}, {"action": np.array([1])})
    (joint,) = joints.found or []
    assert (joint.name, joint.discrete, joint.low, joint.high) == ("action", True, 1, 3)
    assert joint.counts.tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_a_continuous_action_has_cells_between_its_bounds_or_those_of_the_first_rows():
    joints = Joints({"arm": Leaf("arm", "float32", (2,), [-1.0, 0.0], [1.0, 4.0]), "free": Leaf("f", "float32", ())})
    then = {"arm": np.array([[-1.0, 0.0], [1.0, 4.0]], np.float32), "f": np.array([2.0, 10.0], np.float32)}
    joints.add(then, then)
    joints.add(then, {"arm": then["arm"] + 100, "f": np.array([np.nan, np.inf], np.float32)})
    found = joints.found or []
    assert [joint.name for joint in found] == ["action/arm[0]", "action/arm[1]", "action/free"]
    assert [(joint.low, joint.high) for joint in found] == [(-1, 1), (0, 4), (0, 10)]
    for joint in found[:2]:
        last = len(joint.counts) - 1
        assert (joint.counts[0, 0], joint.counts[last, last], joint.counts[0, last]) == (1, 2, 1)
    assert sum(joint.counts.sum() for joint in found) == 12
