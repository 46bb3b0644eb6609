"""The picture of a replay shows what is known along the recording, and recorded actions beside those given now."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from app.replay.findings import Findings
from app.replay.picture import picture_of
from app.replay.picture_data import BINS, Along, Joints
from app.replay.report import Report
from app.replay.totals import Totals
from app.traffic.comparison import compare
from saver.artifact import Leaf

PLOT = (56, 960 - 56)  # from the first row of the recording to its last one


def report_of(action: Leaf, answers: tuple[str, int] | None = None) -> Report:
    """Of a recording with one row in each piece of the picture."""
    return Report("walker", BINS, 1, answers, 0.0, "", Findings(Along(BINS), Joints(action)))


def drawn(report: Report) -> ET.Element:
    return ET.fromstring(picture_of(report))


def named(picture: ET.Element, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in picture.iter() if element.tag.endswith("}" + tag)]


def texts(picture: ET.Element) -> list[str]:
    return [element.text or "" for element in picture.iter() if element.tag.endswith("}text")]


def points(line: dict[str, str]) -> list[tuple[float, ...]]:
    return [tuple(map(float, point.split(","))) for point in line["points"].split()]


DISCRETE = Leaf("action", "int64", (), 0, 2)
CONTINUOUS = Leaf("action", "float32", (2,), -1.0, 1.0)


def test_agreement_goes_from_none_at_the_bottom_to_all_at_the_top_and_from_left_to_right() -> None:
    report = report_of(DISCRETE)
    report.findings.along.add(np.array([0, 0, 30, BINS - 1]), np.array([True, False, False, True]))
    (line,) = named(drawn(report), "polyline")
    (first, half), (middle, bottom), (last, top) = points(line)
    assert PLOT[0] < first < middle < last < PLOT[1]
    assert middle == pytest.approx((first + last) / 2, abs=8)
    assert half == pytest.approx((bottom + top) / 2)
    assert top < bottom


def test_pieces_without_compared_rows_have_no_point() -> None:
    report = report_of(DISCRETE)
    report.findings.along.add(np.array([3, 50]), np.array([True, True]))
    (line,) = named(drawn(report), "polyline")
    assert len(points(line)) == len(named(drawn(report), "circle")) == 2


def test_the_scale_of_the_divergence_ends_with_the_largest() -> None:
    report = report_of(DISCRETE)
    report.findings.along.add_divergence(np.array([0, 1, 1]), np.array([0.5, 2.0, 4.0]))
    picture = drawn(report)
    assert {"divergence (mean, nats)", "0", "3"} <= set(texts(picture))
    assert "agreement (share of rows)" not in texts(picture)
    (line,) = named(picture, "polyline")
    (_, low), (_, high) = points(line)
    assert high < low


def test_where_nothing_diverges_the_line_is_at_the_bottom() -> None:
    report = report_of(DISCRETE)
    report.findings.along.add_divergence(np.array([0, 59]), np.zeros(2))
    picture = drawn(report)
    edges = [path["d"].partition("H")[0] for path in named(picture, "path")]
    (line,) = named(picture, "polyline")
    assert {f"M56 {y:g}" for _, y in points(line)} == {edges[0]}


def cells(picture: ET.Element) -> dict[tuple[float, float], tuple[str, float]]:
    """The number and the shade in each cell, by the place of its left upper corner."""
    found: dict[tuple[float, float], tuple[str, float]] = {}
    for element in picture.iter():
        title: Any = element.find("{http://www.w3.org/2000/svg}title")
        if element.tag.endswith("}rect") and title is not None:
            found[float(element.attrib["x"]), float(element.attrib["y"])] = (
                title.text,
                float(element.attrib["fill-opacity"]),
            )
    return found


def test_a_discrete_action_has_a_cell_for_what_was_given_then_and_is_given_now() -> None:
    report = report_of(DISCRETE)
    report.findings.joints.add({"action": np.array([0] * 100 + [2])}, {"action": np.array([0] * 100 + [0])})
    picture = drawn(report)
    ((first, row), (often, shade)), ((last, same_row), (once, pale)) = sorted(cells(picture).items())
    assert (often, once) == ("100", "1")
    assert (shade, pale) == (1.0, 0.1)
    assert first < last
    assert row == same_row  # what is given now is the same
    assert texts(picture).count("100") == texts(picture).count("1") == 1


def test_larger_numbers_are_further_right_for_then_and_further_up_for_now() -> None:
    report = report_of(DISCRETE)
    report.findings.joints.add({"action": np.array([0, 2])}, {"action": np.array([0, 2])})
    (frame,) = [rect for rect in named(drawn(report), "rect") if rect["fill"] == "none"]
    left, top, side = (float(frame[name]) for name in ("x", "y", "width"))
    (low, bottom), (high, above) = sorted(cells(drawn(report)))
    assert (low, above) == pytest.approx((left, top), abs=0.01)
    assert (high, bottom) == pytest.approx((left + side * 2 / 3, top + side * 2 / 3), abs=0.01)


def test_a_rare_difference_among_many_rows_can_be_seen() -> None:
    report = report_of(DISCRETE)
    report.findings.joints.add({"action": np.array([0] * 10**6 + [1])}, {"action": np.array([0] * 10**6 + [0])})
    assert min(shade for _, shade in cells(drawn(report)).values()) == 0.05
    assert "1,000,000" in texts(drawn(report))


def test_each_number_of_a_continuous_action_has_its_own_square_between_its_bounds() -> None:
    report = report_of(CONTINUOUS)
    report.findings.joints.add({"action": np.zeros((3, 2))}, {"action": np.ones((3, 2))})
    picture = drawn(report)
    assert [text for text in texts(picture) if text.endswith("now ↑")] == [
        "action[0]: then →, now ↑",
        "action[1]: then →, now ↑",
    ]
    assert texts(picture).count("-1") == texts(picture).count("1") == 2
    assert "3" not in texts(picture)  # of so many cells none has its number written in it
    assert [number for number, _ in cells(picture).values()] == ["3", "3"]


def test_the_title_says_who_answered_and_how_often_alike_and_is_escaped() -> None:
    report = report_of(DISCRETE, ("step<7>", 7))
    totals = Totals()
    totals.add(compare({"action": np.array([0, 1])}, {"action": np.array([0, 0])}, ({}, {}), 0.0), 0)
    report.findings.by_version = {("v", 1, False): totals}
    title = "walker: 2 rows answered again by version step<7>, agreement 50.00 %"
    picture = drawn(report)
    assert texts(picture)[0] == title
    assert picture[0].text == title


def test_a_recording_of_which_nothing_was_answered_has_a_title_alone() -> None:
    picture = drawn(report_of(DISCRETE))
    assert texts(picture) == ["walker: 0 rows answered again by the versions that answered then"]
    assert picture.attrib["height"] == "60"
