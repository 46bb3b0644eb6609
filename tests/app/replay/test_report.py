import io
import math
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
from rich.console import Console

from app.replay.findings import Findings
from app.replay.picture import picture_of
from app.replay.picture_data import Along, Joints
from app.replay.report import Report
from app.replay.totals import Totals
from app.traffic.comparison import compare
from saver.artifact import Leaf


def report(answers: tuple[str, int] | None = None, **more: object) -> Report:
    """Of 3 rows that version 7 answered, one of them otherwise now, and of 2 that were drawn."""
    then, now = {"action": np.array([0, 1, 2])}, {"action": np.array([0, 1, 0])}
    compared, drawn = Totals(), Totals(sampled=2)
    found = compare(then, now, ({}, {}), 0.0)
    compared.add(found, seeded=1)
    drawn.log_prob.add(np.array([-1.0, -2.0]))
    findings = Findings(Along(7), Joints(Leaf("action", "int64", (), 0, 2)), **more)
    findings.along.add(np.array([0, 1, 6]), found.agree)
    findings.joints.add(then, now)
    findings.by_version = {("7", 70, answers is None): compared, ("8", 80, answers is None): drawn}
    return Report("[b]p[/b] & <q>", 7, 2, answers, 0.5, "", findings)


def shown(report: Report) -> str:
    out = io.StringIO()
    report.print(Console(file=out, width=160, highlight=False))
    return out.getvalue()


def test_it_says_how_many_rows_of_which_kind_there_were_and_what_was_left_out():
    gone = Counter({f"v{number}": number for number in range(1, 8)})
    text = shown(report(gone=gone, unknown_state=4, refused=1))
    assert "[b]p[/b] & <q>  recorded, and answered again by the versions that answered then" in text
    assert "7 rows of 2 environments: 2 greedy or without a draw, 1 seeded, 2 sampled without a seed" in text
    assert "left out: 28 of versions that are gone: v7 (7), v6 (6), v5 (5), v4 (4), v3 (3), and 2 more" in text
    assert "left out: 4 of which the policy state before is not known" in text
    assert "left out: 1 that the policy refuses" in text
    assert "within 0.5 where continuous" in text
    assert "2 rows; their mean log-probability now is -1.5" in text
    (line,) = [line for line in text.splitlines() if line.startswith("│ 7 ")]
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["7", "70", "3", "66.67 %", "0 %", "66.67 %", "2"]


def test_only_the_version_of_then_is_expected_to_answer_the_same():
    assert report().differing == 1
    assert report(("9", 90)).differing == 0


def test_columns_that_would_be_empty_are_left_out():
    drawn = report()
    del drawn.findings.by_version["7", 70, True]
    assert "agreement" not in shown(drawn)
    assert "divergence" not in shown(drawn)
    drawn.findings.by_version["8", 80, True].divergence.add(np.array([0.25, math.inf]))
    assert "0.25 and 1 infinite" in shown(drawn)


def test_the_picture_is_an_svg_with_each_number_in_it():
    given = report(("9", 90))
    given.findings.along.add_divergence(np.array([0, 6]), np.array([0.1, 2.0]))
    picture = ET.fromstring(picture_of(given))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert texts[0] == "[b]p[/b] & <q>: 5 rows answered again by version 9, agreement 66.67 %"
    assert {"agreement (share of rows)", "divergence (mean, nats)", "action: then →, now ↑"} <= set(texts)
    assert texts.count("1") == 3 + 1  # three cells, and the end of the first scale
    lines = [element.get("points") for element in picture.iter() if element.tag.endswith("polyline")]
    assert [len(points.split()) for points in lines if points] == [3, 2]


def test_a_picture_of_drawn_rows_alone_can_be_made_too():
    drawn = report()
    drawn.findings.along.compared[:] = 0
    drawn.findings.joints.found = None
    ET.fromstring(picture_of(drawn))
