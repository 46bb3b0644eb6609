"""Tables for a person, on a terminal or in a file."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

# Wide enough for the names and reasons, where the output is a file or a pipe.
_WIDTH = 120


def wide_console() -> Console:
    """Returns a console on standard output; wide enough for tables where that is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def titled_table(title: str, *columns: str) -> Table:
    """Returns a table without rows."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def add_row(to: Table, *cells: str) -> None:
    """Adds a row of plain text: names and shapes may look like rich's markup."""
    to.add_row(*map(escape, cells))
