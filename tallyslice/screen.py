"""The console of the commands: live on a terminal; elsewhere plain text, for a file or another program."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

WIDE = 400  # columns where no terminal has an edge: a table must not lose what a program looks for in it


def new_console() -> Console:
    """A console on standard output: live on a terminal; elsewhere plain text, whatever the environment says.

    Brackets in what is printed are no markup: they are routes and URLs.
    """
    terminal = sys.stdout.isatty()
    return Console(
        force_terminal=None if terminal else False,
        color_system="auto" if terminal else None,
        width=None if terminal else WIDE,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=not terminal,
    )


def plain_console() -> Console:
    """A console that shows ids and routes as they are: brackets are no markup here."""
    return Console(markup=False, highlight=False, emoji=False)


def error_console() -> Console:
    """A console on standard error: what people should know while standard output is for a program."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def new_table(*heads: str, numbers: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table that can be read, and cut into columns by a program: no lines but one under the heads.

    Args:
        heads: of the columns.
        numbers: those of them that are numbers.
        title: above it.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right" if head in numbers else "left", overflow="fold")
    return table
