"""``tallyslice watch``: the current slice and those before, live, until Ctrl-C."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from common.errors import InputOutputFailed
from common.slices import Micros
from tallyslice.screen import new_console
from tallyslice.target import Target, find_target, target_options

if TYPE_CHECKING:
    from tallyslice.watch.look import Look

LIVE_SECONDS, LINE_SECONDS = 1.0, 5.0  # between looks; nobody reads a line a second
INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX = 0.1, 3600


@click.command
@target_options()
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX),
    help=f"Between two looks.  [default: {LIVE_SECONDS:g}; {LINE_SECONDS:g} between lines]",
)
@click.option("--once", is_flag=True, help="Show one look, and leave.")
def watch(  # noqa: PLR0917 - click hands its options over by name
    cluster: Path | None,
    urls: tuple[str, ...],
    token_file: Path | None,
    ca: Path | None,
    interval: float | None,
    once: bool,
) -> int:
    """Watch what is counted: the current slice, the last ones, events a second, worker by worker; until Ctrl-C.

    \b
    Examples:
      tallyslice watch
      tallyslice watch --url http://localhost:8000 --once
      tallyslice watch | tee counted.log

    If the API node stops answering, the next one is asked; if none answers, the last numbers stay, marked as stale.
    Where standard output is no terminal, it is a line every 5 s. With --once, exit status 70 if nobody answers.
    """
    target = find_target(cluster=cluster, urls=urls, token_file=token_file, ca=ca)
    return asyncio.run(_watch(target, new_console(), interval, once=once))


async def _watch(target: Target, console: Console, interval: float | None, *, once: bool) -> int:
    from tallyslice.questions import AnyNode, Questions  # noqa: PLC0415 - slow to import
    from tallyslice.watch.look import Look  # noqa: PLC0415 - likewise

    async with target.session() as session:
        nodes = AnyNode(target=target, questions=Questions(session=session, headers=target.headers))
        look = Look(nodes=nodes, now=lambda: Micros(time.time_ns() // 1000), timer=time.monotonic)
        if once:
            await _show_once(look, console, interval or LIVE_SECONDS)
        elif console.is_terminal:
            await _show_live(look, console, interval or LIVE_SECONDS)
        else:
            await _print_lines(look, interval or LINE_SECONDS)
    return 0


async def _show_once(look: Look, console: Console, interval: float) -> None:
    from tallyslice.watch.view import line, screen  # noqa: PLC0415 - likewise

    seen = await look.again()
    if seen.clock is None:
        raise InputOutputFailed("\n".join(seen.problems))
    await asyncio.sleep(interval)  # events a second need two looks
    seen = await look.again()
    if console.is_terminal:
        console.print(screen(seen, width=console.width, height=console.height))
    else:
        click.echo(line(seen))


async def _print_lines(look: Look, interval: float) -> None:
    from tallyslice.watch.view import line  # noqa: PLC0415 - likewise

    while True:
        click.echo(line(await look.again()))
        await asyncio.sleep(interval)


async def _show_live(look: Look, console: Console, interval: float) -> None:
    from tallyslice.watch.view import screen  # noqa: PLC0415 - likewise

    # No refreshing thread: a frame is drawn when there is something new, in one piece.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            seen = await look.again()
            live.update(screen(seen, width=console.width, height=console.height), refresh=True)
            await asyncio.sleep(interval)
