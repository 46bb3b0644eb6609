import json
from pathlib import Path

import numpy as np
import pytest

from app.control.probe_file import MOST_ROWS, ProbeFile
from app.errors import UnusablePolicy
from app.settings import SettingsError
from saver.artifact import Leaf, PolicySpec
from tests.support.specs import policy_spec

NUMBER = policy_spec(Leaf("0/observation", "float32", ()))
TEXT = policy_spec(Leaf("0/observation", "string", ()))
RECURRENT = policy_spec(Leaf("0/observation", "float32", ()), state=(Leaf("1/0", "float32", (2,)),))


def read(folder: Path, text: str, spec: PolicySpec = NUMBER, *others: str) -> list:
    file = folder / "probes.json"
    file.write_text(text)
    return ProbeFile(file, ["p", *others]).inputs("p", spec)


BODIES = '{"observation": 1}', '{"observation": [2, 3], "options": {"mode": "greedy"}}'
FORMS = {
    "list": (f"[{BODIES[0]}, {BODIES[1]}]", ["item 1", "item 2", "item 2"]),
    "lines": (f"{BODIES[0]}\n\n{BODIES[1]}\n", ["line 1", "line 3", "line 3"]),
    "by policy": (f'{{"p": [{BODIES[0]}, {BODIES[1]}], "q": [{{}}]}}', ["item 1", "item 2", "item 2"]),
}


@pytest.mark.parametrize(("text", "names"), FORMS.values(), ids=FORMS)
def test_each_form_gives_whole_rows_with_names(tmp_path, text, names):
    rows = read(tmp_path, text, NUMBER, "q")
    assert [name for name, _ in rows] == [f"{name} of probes.json" for name in names]
    assert [row["0/observation"].tolist() for _, row in rows] == [[1.0], [2.0], [3.0]]
    assert {name: array.tolist() for name, array in rows[0][1].items() if name != "0/observation"} == {
        "0/step_type": [1], "0/reward": [0.0], "0/discount": [1.0],
    }  # fmt: skip


def test_one_body_alone_is_a_line(tmp_path):
    (row,) = read(tmp_path, '{"observation": "up"}', TEXT)
    assert row[1]["0/observation"].tolist() == ["up"]


def test_an_episode_begins_where_there_is_no_policy_state(tmp_path):
    first, later = read(tmp_path, '[{"observation": 1}, {"observation": 1, "policy_state": [[1, 2]]}]', RECURRENT)
    assert "1/0" not in first[1]
    assert first[1]["0/step_type"].tolist() == [0]
    assert np.array_equal(later[1]["1/0"], [[1.0, 2.0]])
    assert later[1]["0/step_type"].tolist() == [1]


def test_a_policy_without_inputs_of_its_own_has_none(tmp_path):
    assert read(tmp_path, '{"q": [{"observation": 1}]}', NUMBER, "q") == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"observation": "up"}, "item 1: observation: the string 'up'; expected"),
        ({"observation": 1, "speed": 2}, "item 1: speed: is no field of this policy"),
        ({"observation": 1, "options": {"seed": -1}}, "item 1: options.seed: -1"),
        ({}, "item 1: observation: is missing"),
    ],
)
def test_a_body_that_does_not_fit_makes_its_policy_fail(tmp_path, body, says):
    with pytest.raises(UnusablePolicy) as caught:
        read(tmp_path, json.dumps([body]))
    assert says in str(caught.value)
    assert str(tmp_path / "probes.json") in str(caught.value)


def test_so_many_rows_are_the_most(tmp_path):
    one = [{"observation": 1}]
    assert len(read(tmp_path, json.dumps(one * MOST_ROWS))) == MOST_ROWS
    with pytest.raises(UnusablePolicy, match=f"have {MOST_ROWS + 1} rows: expected at most {MOST_ROWS}"):
        read(tmp_path, json.dumps(one * (MOST_ROWS + 1)))


@pytest.mark.parametrize("content", [b"\xff", b"3", b'"text"', b"[[1]]", b"null"])
def test_another_form_is_refused(tmp_path, content):
    (tmp_path / "probes.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"probes\.json"):
        ProbeFile(tmp_path / "probes.json", ["p"])
