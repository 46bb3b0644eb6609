import numpy as np
import pytest

from app.engine.noise import fresh_noise, seeded_noise
from saver.artifact import NOISE_NORMAL, NOISE_UNIFORM, Noise

BOTH = Noise(uniform=3, normal=5)
UNIFORM_OF_SEED_42 = [[0.820198118686676, 0.18924564123153687], [0.8676608204841614, 0.39458149671554565]]
NORMAL_OF_SEED_42 = [
    [0.5164799690246582, -1.1654399633407593, -0.8842417001724243],
    [-1.563095211982727, 2.221595287322998, 0.037028487771749496],
]


def test_noise_has_the_sizes_that_the_policy_takes():
    for draw in (lambda noise: seeded_noise(noise, 4, 7), lambda noise: fresh_noise(noise, 4, np.random.default_rng())):
        arrays = draw(BOTH)
        assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
            NOISE_UNIFORM: ((4, 3), np.float32),
            NOISE_NORMAL: ((4, 5), np.float32),
        }
        assert draw(Noise(0, 0)) == {}
        assert list(draw(Noise(2, 0))) == [NOISE_UNIFORM]
        assert list(draw(Noise(0, 1))) == [NOISE_NORMAL]


@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_a_row_depends_on_the_seed_and_its_number_alone(rows):
    whole = seeded_noise(BOTH, 300, seed=2**63 - 1)
    for name, array in seeded_noise(BOTH, rows, seed=2**63 - 1).items():
        np.testing.assert_array_equal(array, whole[name][:rows])


def test_no_two_rows_seeds_or_kinds_share_their_numbers():
    first, second = seeded_noise(BOTH, 100, 0), seeded_noise(BOTH, 100, 1)
    for name in first:
        everything = np.concatenate([first[name].ravel(), second[name].ravel()])
        assert len(np.unique(everything)) == everything.size
    assert np.corrcoef(first[NOISE_UNIFORM].ravel(), first[NOISE_NORMAL][:, :3].ravel())[0, 1] < 0.2


def test_seeded_numbers_are_those_of_every_release():
    """Replays made with an earlier version of the server must come out the same."""
    noise = seeded_noise(Noise(2, 3), 2, seed=42)
    np.testing.assert_array_equal(noise[NOISE_UNIFORM], np.array(UNIFORM_OF_SEED_42, np.float32))
    # The last bit of a cosine may differ between machines.
    np.testing.assert_allclose(noise[NOISE_NORMAL], NORMAL_OF_SEED_42, rtol=1e-6)


@pytest.mark.parametrize("seeded", [True, False])
def test_numbers_are_uniform_and_normal(seeded):
    noise, rows = Noise(5, 5), 40_000
    arrays = seeded_noise(noise, rows, 3) if seeded else fresh_noise(noise, rows, np.random.default_rng(3))
    uniform, normal = arrays[NOISE_UNIFORM].astype(float), arrays[NOISE_NORMAL].astype(float)
    assert 0 < uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    # Five standard errors of the mean of 40,000, for each column.
    assert (np.abs(uniform.mean(0) - 0.5) < 5 * np.sqrt(1 / 12 / rows)).all()
    assert (np.abs(normal.mean(0)) < 5 / np.sqrt(rows)).all()
    assert (np.abs(normal.var(0) - 1) < 5 * np.sqrt(2 / rows)).all()
    assert (np.abs((normal**4).mean(0) - 3) < 5 * np.sqrt(96 / rows)).all()


def test_uniform_numbers_are_never_0_or_1_in_the_precision_that_is_sent():
    extremes = np.array([0, 2**23 - 1], np.uint64)
    from app.engine.noise import _uniform

    low, high = _uniform(extremes)
    assert np.float32(0) < low
    assert high < np.float32(1)


def test_each_step_of_an_episode_has_noise_of_its_own():
    noise = Noise(2, 3)
    steps = [seeded_noise(noise, 4, 7, step) for step in (0, 1, 2, 2**63 - 1)]
    for name in steps[0]:
        assert np.array_equal(steps[0][name], seeded_noise(noise, 4, 7)[name])
        numbers = [step[name].tobytes() for step in steps]
        assert len(set(numbers)) == len(steps)
        assert np.array_equal(seeded_noise(noise, 9, 7, 2)[name][:4], steps[2][name])
