"""Which version an operator wants to stay at, and what becomes of that wish: a table of plain values.

| pin        | made by                       | ends when                                                       |
|------------|-------------------------------|-----------------------------------------------------------------|
| none       | a reload of the newest        | an operator names a version, or rolls back                      |
| checkpoint | a reload by name              | the newest is reloaded; its checkpoint is deleted               |
| export     | a reload of the export        | the newest is reloaded                                          |
| rollback   | a roll-back                   | the newest is reloaded; it outlives the deletion of its folder  |

Each of them ends also where its version cannot serve after a restart. A request that is refused is no event.
"""

from __future__ import annotations

import enum

from app.artifacts.names import EXPORT
from app.artifacts.records import Pin


class Kind(enum.Enum):
    """The rows of the table above."""

    NONE = "none"
    CHECKPOINT = "checkpoint"
    EXPORT = "export"
    ROLLBACK = "rollback"


class Event(enum.Enum):
    """What can end a pin, or make another one."""

    RELOADED_NEWEST = "the newest version was reloaded"
    RELOADED_BY_NAME = "a checkpoint was reloaded by its name"
    RELOADED_EXPORT = "the export was reloaded"
    ROLLED_BACK = "the version before was reloaded"
    DELETED = "the checkpoint of the pinned version was deleted"
    NOT_RESUMED = "the pinned version cannot serve after a restart"


_BY_OPERATOR = {
    Event.RELOADED_NEWEST: Kind.NONE,
    Event.RELOADED_BY_NAME: Kind.CHECKPOINT,
    Event.RELOADED_EXPORT: Kind.EXPORT,
    Event.ROLLED_BACK: Kind.ROLLBACK,
}
NEXT: dict[tuple[Kind, Event], Kind] = {
    **{(kind, event): after for kind in Kind for event, after in _BY_OPERATOR.items()},
    **{(kind, Event.NOT_RESUMED): Kind.NONE for kind in Kind},
    (Kind.NONE, Event.DELETED): Kind.NONE,
    (Kind.CHECKPOINT, Event.DELETED): Kind.NONE,
    (Kind.EXPORT, Event.DELETED): Kind.EXPORT,
    (Kind.ROLLBACK, Event.DELETED): Kind.ROLLBACK,
}


def kind_of(pin: Pin | None) -> Kind:
    """Returns the row of the table that a pin belongs to; a roll-back to the export is a roll-back."""
    if pin is None:
        return Kind.NONE
    if pin.survives_deletion:
        return Kind.ROLLBACK
    return Kind.EXPORT if pin.name == EXPORT else Kind.CHECKPOINT


def after(pin: Pin | None, event: Event, name: str = "") -> Pin | None:
    """Returns the pin that an event leaves; `name` is the version that the operator has asked for."""
    kind = NEXT[kind_of(pin), event]
    if kind is Kind.NONE:
        return None
    if event not in _BY_OPERATOR:
        return pin
    return Pin(EXPORT if kind is Kind.EXPORT else name, survives_deletion=kind is Kind.ROLLBACK)


def reloaded(name: str | None) -> Event:
    """Returns the event of a reload of the version `name`, or of the newest one."""
    if name is None:
        return Event.RELOADED_NEWEST
    return Event.RELOADED_EXPORT if name == EXPORT else Event.RELOADED_BY_NAME


def needs_no_scan(pin: Pin | None) -> bool:
    """Whether nothing that a scan could find would end the pin."""
    return pin is not None and NEXT[kind_of(pin), Event.DELETED] is kind_of(pin)
