import numpy as np

from app.replay.environments import CameWith, PerEnvironment, starts_anew, waves


def arrays(*lists):
    return [np.array(values) for values in lists]


def test_a_row_was_asked_with_what_the_row_before_it_came_with():
    came_with = CameWith({"reward": np.zeros(1, np.float32), "discount": np.ones(1, np.float32)})
    environments, steps = arrays([0, 1, 0, 1, 0], [0, 4, 1, 5, 2])
    values = {
        "reward": np.array([1, 2, 3, 4, 5], np.float32),
        "discount": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32),
    }
    found = came_with.shifted(environments, steps, values)
    assert found["reward"].tolist() == [0, 0, 1, 2, 3]
    np.testing.assert_array_equal(found["discount"], np.array([1, 1, 0.1, 0.2, 0.3], np.float32))
    # The next piece goes on where this one ended; step 7 of environment 1 comes after one that is not there.
    environments, steps = arrays([1, 0, 2], [7, 3, 0])
    found = came_with.shifted(environments, steps, {name: array[:3] for name, array in values.items()})
    assert found["reward"].tolist() == [0, 5, 0]


def test_waves_have_one_row_of_each_environment_in_the_order_of_its_steps():
    environments, steps = arrays([3, 5, 3, 5, 3, 9], [1, 0, 0, 2, 2, 8])
    found = [sorted(wave.tolist()) for wave in waves(environments, steps)]
    assert found == [[1, 2, 5], [0, 3], [4]]


def test_only_the_step_just_before_is_followed():
    kept = PerEnvironment()
    environments, steps = arrays([0, 4], [3, 0])
    assert kept.follows(environments, steps).tolist() == [False, False]
    kept.keep(environments, steps, {"state": np.array([[1.0], [2.0]])})
    assert kept.follows(*arrays([0, 4, 4, 2], [4, 1, 2, 1])).tolist() == [True, True, False, False]
    kept.keep(*arrays([9], [0]), {"state": np.array([[7.0]])})
    assert kept.values("state", np.array([4, 9, 0])).tolist() == [[2.0], [7.0], [1.0]]


def test_an_episode_starts_with_first_and_with_the_session():
    assert starts_anew(*arrays([0, 1, 1, 2], [5, 0, 1, 2])).tolist() == [True, True, False, False]
