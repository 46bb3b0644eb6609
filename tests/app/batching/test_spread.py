import itertools

import numpy as np

from app.batching.spread import farthest_first


def rows(points, **more):
    return [
        {"0/observation": np.array([point], np.float32)} | {n: a[at] for n, a in more.items()}
        for at, point in enumerate(points)
    ]


def test_few_rows_are_all_chosen():
    assert farthest_first(rows([[1.0], [2.0]]), 2) == [0, 1]
    assert farthest_first([], 3) == []


def test_each_is_the_one_that_is_farthest_from_those_before():
    assert farthest_first(rows([[0.0], [1.0], [4.0], [10.0], [10.0]]), 3) == [4, 0, 2]


def test_lonely_rows_are_found_among_many_that_are_alike():
    points = np.random.default_rng(1).normal(0, 0.01, (200, 4))
    lonely = [17, 55, 120]
    points[lonely] = [[9, 0, 0, 0], [0, -9, 0, 0], [0, 0, 9, 9]]
    assert set(lonely) <= set(farthest_first(rows(points), 5))


def test_no_row_is_farther_from_a_chosen_one_than_twice_what_can_be_had():
    """Compared with the best of all choices; one number, so that its scale changes nothing."""
    values = np.random.default_rng(2).normal(size=9)
    for count in (2, 3, 4):

        def radius(chosen) -> float:
            return float(max(min(abs(value - values[one]) for one in chosen) for value in values))

        best = min(radius(chosen) for chosen in itertools.combinations(range(9), count))
        assert radius(farthest_first(rows(values[:, None]), count)) <= 2 * best + 1e-9


def test_each_input_counts_the_same_whatever_its_unit_and_size():
    generator = np.random.default_rng(3)
    image = np.repeat(generator.normal(size=(50, 1)), 3000, axis=1) * 255
    speed = np.zeros((50, 1), np.float32)
    speed[20] = 1e-3
    found = farthest_first(rows(image, speed=speed[:, None]), 4)
    assert 20 in found
    assert len(set(found)) == 4


def test_what_is_no_number_and_what_is_not_in_every_row_does_not_count():
    given = rows([[0.0], [np.nan], [5.0], [np.inf]], words=np.array([["a"], ["b"], ["c"], ["d"]], object))
    given[1]["state"] = np.ones((1, 2))
    given[2]["1/other"] = np.ones((1, 2))
    assert sorted(farthest_first(given, 2)) == [2, 3]
    assert len(set(farthest_first([{}] * 5, 3))) == 3
