"""The console of the commands that run for a while."""

from __future__ import annotations

import sys

from rich.console import Console


def new_console() -> Console:
    """A console on standard output: live on a terminal; elsewhere plain text, whatever the environment says.

    Brackets in what is printed are no markup: they are routes and URLs.
    """
    terminal = sys.stdout.isatty()
    return Console(
        force_terminal=None if terminal else False,
        color_system="auto" if terminal else None,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=not terminal,
    )
