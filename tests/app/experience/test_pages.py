"""What a reader gets: rows behind its cursor, of new enough weights, in whole episodes."""

import itertools
import random

import pytest

from app.errors import DoesNotFit
from app.experience import pages
from app.experience.cursor import Cursor, read_cursor
from app.experience.limits import RowLogLimits
from app.experience.query import Query, read_query
from app.experience.row_log import RowLog
from tests.support.experience import COLUMNS, FIRST, LAST, Reading, Simulator, append_steps, rows_of


@pytest.fixture
def log(tmp_path):
    return RowLog(tmp_path, COLUMNS, RowLogLimits(10**9, 10_000, 1e9))


def filled(log, simulators, batches=40):
    """Rows in batches of all sizes, in segments of both kinds."""
    chance = random.Random(0)
    for _ in range(batches):
        append_steps(log, [chance.choice(simulators) for _ in range(chance.randint(1, 40))])
        if chance.random() < 0.5:
            log.close_next()


def test_pages_of_every_size_hold_each_row_once(log):
    filled(log, [Simulator("a"), Simulator("b")])
    whole = Reading(log).rest()
    assert len(whole) == log.end
    for size in (1, 7, 64, 5000):
        assert Reading(log, max_rows=size).rest() == whole
    assert len(Reading(log, max_rows=7).page()["columns"]["observation"]) == 7


def test_two_readers_are_independent(log):
    filled(log, [Simulator("a")], 5)
    one, two = Reading(log, max_rows=3), Reading(log, max_rows=4)
    assert [one.page()["rows"], two.page()["rows"], one.page()["rows"]] == [3, 4, 3]
    assert (one.at, two.at) == (6, 4)


def test_rows_of_new_enough_weights_alone(log):
    simulators = [Simulator("old", train_step=3), Simulator("new", train_step=7)]
    filled(log, simulators)
    new = [row for row in Reading(log).rest() if row["session"] == "new"]
    for least in (5, 7):
        assert Reading(log, least_train_step=least, max_rows=50).rest() == new
    reader = Reading(log, least_train_step=8)
    assert reader.page()["rows"] == 0
    assert reader.at == log.end


def episodes_of(rows):
    """Splits rows where the episodes end, and checks that each is one, from FIRST to LAST."""
    found = [[]]
    for row in rows:
        found[-1].append(row)
        if row["next_step_type"] == LAST:
            found.append([])
    assert found.pop() == []
    for episode in found:
        assert [row["step_type"] == FIRST for row in episode] == [True] + [False] * (len(episode) - 1)
        assert [row["step"] - episode[0]["step"] for row in episode] == list(range(len(episode)))
        assert len({(row["session"], row["row"]) for row in episode}) == 1
    return found


@pytest.mark.parametrize("size", [1, 13, 100, 60_000])
def test_episodes_come_whole_once_each_and_in_the_order_of_their_ends(log, size):
    filled(log, [Simulator(f"s{number}", length=1 + number) for number in range(9)])
    found = episodes_of(Reading(log, complete_episodes=True, max_rows=size).rest())
    ends = [row for row in Reading(log).rest() if row["next_step_type"] == LAST]
    assert [episode[-1] for episode in found] == ends
    assert sum(map(len, found)) > 300


def test_a_page_of_episodes_has_as_many_as_fit_and_at_least_one(log):
    append_steps(log, [Simulator("a", length=5)], 30)
    for most, rows in ((1, 5), (9, 5), (10, 10), (14, 10)):
        assert Reading(log, complete_episodes=True, max_rows=most).page()["rows"] == rows


def test_half_an_episode_is_never_given_whatever_is_missing_of_it(log):
    started_before = Simulator("a", length=8)
    started_before.steps = 2
    abandoned, gap = Simulator("b", length=8), Simulator("c", length=8)
    given = [started_before.next() for _ in range(9)]
    given += [abandoned.next() for _ in range(4)]
    for row in (fresh := [abandoned.next() for _ in range(12)])[:8]:
        row["step_type"] = FIRST if row is fresh[0] else 1
    given += [{**row, "next_step_type": LAST if row is fresh[5] else 1} for row in fresh[:6]]
    given += [row for row in (gap.next() for _ in range(9)) if row["step"] != 4]
    log.append(rows_of(COLUMNS, given), {})
    found = episodes_of(Reading(log, complete_episodes=True).rest())
    assert [(episode[0]["session"], len(episode)) for episode in found] == [("b", 6)]


def test_an_episode_that_a_restart_falls_into_is_whole(log, tmp_path):
    simulators = [Simulator("a", length=30), Simulator("b", length=30)]
    append_steps(log, simulators, 11)
    log.close()
    log = RowLog(tmp_path, COLUMNS, RowLogLimits(10**9, 10_000, 1e9))
    append_steps(log, simulators, 9)
    log.close_if_due(2e9)
    append_steps(log, simulators, 20)
    assert [len(each) for each in episodes_of(Reading(log, complete_episodes=True).rest())] == [30, 30]


def test_an_episode_with_a_step_by_older_weights_is_none_of_new_enough_ones(log):
    simulator = Simulator("a", length=3)
    rows = list(itertools.chain.from_iterable([simulator.next() for _ in range(4)] for _ in range(3)))
    for row, train_step in zip(rows, (5, 5, 5, 5, 4, 5, 5, 5, 5, 5, 5, 5), strict=True):
        row["train_step"] = train_step
    log.append(rows_of(COLUMNS, rows), {})
    found = episodes_of(Reading(log, complete_episodes=True, least_train_step=5).rest())
    assert [episode[0]["step"] for episode in found] == [1, 9]


def test_an_episode_whose_start_was_removed_is_lost_and_counted(tmp_path):
    log = RowLog(tmp_path, COLUMNS, RowLogLimits(60_000, 10_000, 1e9))
    long, short = Simulator("long", length=1000), Simulator("short", length=4)
    for _ in range(200):
        append_steps(log, [long, short], 5)
        log.close_next()
    reader = Reading(log, complete_episodes=True)
    found = episodes_of(reader.rest())
    assert {episode[0]["session"] for episode in found} == {"short"}
    assert reader.lost >= log.first > 0


def test_a_search_is_interrupted_and_goes_on(log, monkeypatch):
    filled(log, [Simulator("a", train_step=1)])
    append_steps(log, [Simulator("b", train_step=2)])
    monkeypatch.setattr(pages, "_TURN_S", -1.0)
    reader, pages_read = Reading(log, at=1, least_train_step=0), 0
    while reader.at < log.end:
        page, pages_read = reader.page(), pages_read + 1
    assert page["columns"]["session"][-1] == "b"
    assert pages_read > 10


def test_an_answer_is_bounded_in_bytes(log, monkeypatch):
    append_steps(log, [Simulator("a", length=5)], 600)
    monkeypatch.setattr(pages, "_MOST_BYTES", 10_000)
    assert 10 < Reading(log).page()["rows"] < 200
    assert 5 < Reading(log, complete_episodes=True).page()["rows"] < 200
    assert len(Reading(log).rest()) == 600


def test_a_cursor_is_text_that_is_read_again_and_never_something_else():
    cursor = Cursor(b"12345678", 2**40, b"reader")
    text = cursor.text()
    assert read_cursor(text) == cursor
    for other in (text[:-1], text + "A", "x" + text[1:], text[:-2] + "AA", "", "end ", "0", "ä", text[::-1], "=" * 36):
        with pytest.raises(DoesNotFit, match=r"expected the cursor of an answer as it came"):
            read_cursor(other)


def test_a_query_is_read_from_its_parameters():
    given = [("max_rows", "10"), ("wait_ms", "500"), ("min_train_step", "-1"), ("complete_episodes", "True")]
    assert read_query(given, as_msgpack=True) == Query("", 10, 500, -1, True, True)
    assert read_query([("cursor", "end")], as_msgpack=False) == Query("end")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("max_rows", "0", "an integer from 1 to 65536"),
        ("max_rows", "65537", "an integer from 1 to 65536"),
        ("max_rows", "1e3", "an integer from 1 to 65536"),
        ("max_rows", "١", "an integer from 1 to 65536"),
        ("wait_ms", "-1", "an integer from 0 to 50000"),
        ("wait_ms", "", "an integer from 0 to 50000"),
        ("min_train_step", "9" * 4000, "an integer from -1 to"),
        ("min_train_step", "--1", "an integer from -1 to"),
        ("complete_episodes", "yes", "true or false"),
        ("cursor", "AAAA", "the cursor of an answer as it came"),
        ("rows", "1", "one of cursor, max_rows, wait_ms, min_train_step, complete_episodes"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(name, text, says):
    with pytest.raises(DoesNotFit) as refused:
        read_query([(name, text)], as_msgpack=False)
    (problem,) = refused.value.problems
    assert problem.where == name
    assert says in problem.expected


def test_a_parameter_that_is_there_twice_is_refused():
    with pytest.raises(DoesNotFit, match="max_rows: is there twice"):
        read_query([("max_rows", "1"), ("max_rows", "1")], as_msgpack=False)
