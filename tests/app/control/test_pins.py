"""The table of pins: every kind of pin, and every event."""

import pytest

from app.artifacts.names import EXPORT
from app.artifacts.records import Pin
from app.control.pins import NEXT, Event, Kind, after, kind_of, needs_no_scan, reloaded

NAMED, EXPORTED = Pin("a"), Pin(EXPORT)
ROLLED_BACK, ROLLED_BACK_TO_EXPORT = Pin("a", survives_deletion=True), Pin(EXPORT, survives_deletion=True)


@pytest.mark.parametrize(
    ("pin", "deleted"),
    [
        (None, None),
        (NAMED, None),
        (EXPORTED, EXPORTED),
        (ROLLED_BACK, ROLLED_BACK),
        (ROLLED_BACK_TO_EXPORT, ROLLED_BACK_TO_EXPORT),
    ],
)
def test_what_each_event_leaves_of_each_pin(pin, deleted):
    assert after(pin, Event.RELOADED_NEWEST) is None
    assert after(pin, Event.RELOADED_BY_NAME, "b") == Pin("b")
    assert after(pin, Event.RELOADED_EXPORT) == Pin(EXPORT)
    assert after(pin, Event.ROLLED_BACK, "b") == Pin("b", survives_deletion=True)
    assert after(pin, Event.DELETED) == deleted
    assert after(pin, Event.NOT_RESUMED) is None


def test_the_table_has_every_kind_and_event():
    assert set(NEXT) == {(kind, event) for kind in Kind for event in Event}


@pytest.mark.parametrize(
    ("pin", "kind", "no_scan"),
    [
        (None, Kind.NONE, False),
        (NAMED, Kind.CHECKPOINT, False),
        (EXPORTED, Kind.EXPORT, True),
        (ROLLED_BACK, Kind.ROLLBACK, True),
        (ROLLED_BACK_TO_EXPORT, Kind.ROLLBACK, True),
    ],
)
def test_a_folder_is_scanned_unless_nothing_in_it_could_end_the_pin(pin, kind, no_scan):
    assert kind_of(pin) is kind
    assert needs_no_scan(pin) is no_scan


@pytest.mark.parametrize(
    ("name", "event"),
    [(None, Event.RELOADED_NEWEST), ("a", Event.RELOADED_BY_NAME), (EXPORT, Event.RELOADED_EXPORT)],
)
def test_a_reload_is_one_of_the_newest_of_a_checkpoint_or_of_the_export(name, event):
    assert reloaded(name) is event
