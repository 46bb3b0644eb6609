import math

import numpy as np

from app.replay.totals import Totals
from app.traffic.comparison import compare


def test_totals_add_up():
    then, now = {"a": np.array([1, 2, 3, 4])}, {"a": np.array([1, 2, 3, 9])}
    one, other = Totals(), Totals()
    one.add(compare(then, now, ({}, {}), 0.0), seeded=3)
    other.add(compare(then, then, ({}, {}), 0.0), seeded=0)
    other.sampled += 2
    one.divergence.add(np.array([0.5, math.inf, math.nan]))
    one.include(other)
    assert (one.rows, one.compared, one.greedy, one.seeded, one.sampled) == (10, 8, 5, 3, 2)
    assert (one.equal, one.close, one.agree, one.agreement, one.largest) == (7, 7, 7, 0.875, 5.0)
    assert (one.divergence.count, one.divergence.infinite, one.divergence.mean) == (1, 1, 0.5)
    assert one.divergence.largest == math.inf


def test_totals_without_any_rows_have_no_agreement():
    assert math.isnan(Totals().agreement)
