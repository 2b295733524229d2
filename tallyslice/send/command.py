"""``tallyslice send``: one event from the command line, or many from a file or a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from common.errors import InputOutputFailed
from tallyslice.instants import FORMS, Moment
from tallyslice.interrupts import Interrupts
from tallyslice.query import MomentType, instant_of
from tallyslice.screen import error_console
from tallyslice.send.record import Record
from tallyslice.send.source import Parcel, Source, SourceFailed
from tallyslice.target import Target, find_target, target_options

if TYPE_CHECKING:
    import aiohttp

    from tallyslice.send.delivery import Delivery

EXIT_INTERRUPTED = 130
GIVE_UP_SECONDS = 60.0
SHOW_SECONDS = 0.2
STANDARD_INPUT = "-"


@click.command
@click.argument("file", required=False, type=click.Path(allow_dash=True, path_type=Path))
@target_options()
@click.option("--user", metavar="NAME", help="One event of this user; - reads the name from standard input.")
@click.option("--event", metavar="TYPE", help="Its type, such as click.")
@click.option("--at", metavar="TIME", default="now", show_default=True, type=MomentType(), help=f"Its time: {FORMS}.")
@click.option("--id", "event_id", metavar="ID", help="Its id: sent again with the same one, it is counted once.")
@click.option(
    "--ids",
    metavar="NAME",
    help="Give each event of FILE that has none an id, made of NAME, its line and the line's number.",
)
@click.option(
    "--rejects",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write down each line that was not taken: its number and why, as NDJSON.",
)
@click.option(
    "--give-up",
    metavar="SECONDS",
    default=GIVE_UP_SECONDS,
    show_default=True,
    type=click.FloatRange(0),
    help="How long to go on trying while no API node takes anything.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def send(  # noqa: PLR0917 - click hands its options over by name
    file: Path | None,
    cluster: Path | None,
    urls: tuple[str, ...],
    token_file: Path | None,
    ca: Path | None,
    user: str | None,
    event: str | None,
    at: Moment,
    event_id: str | None,
    ids: str | None,
    rejects: Path | None,
    give_up: float,
    as_json: bool,
) -> int:
    """Send events: those of FILE (NDJSON, gzip or not; - is standard input), or one that the options describe.

    \b
    Examples:
      tallyslice send --user ada --event click
      tallyslice send events.ndjson.gz --ids events-of-may --rejects rejected.ndjson
      my-program | tallyslice send --url http://localhost:8000

    A line is an event: {"timestamp": 1495242000, "user": "ada", "event": "click", "id": "a-1"}. What an API node cannot
    take right now is sent again; so is what got no answer, if it has an id. If this is broken off, run it again: with
    ids, and with the same NAME for --ids, nothing is counted twice.

    The name of a user given by --user is seen in the list of processes of this machine; --user - is not.

    Exit status 0 if all events are counted; 1 if some are not; 70 if none could be delivered, or FILE cannot be read.
    """
    if (user is None) != (event is None):
        raise click.UsageError("--user and --event describe one event: give both, or a FILE")
    if user is not None and (file is not None or ids is not None):
        raise click.UsageError("--user describes one event, and FILE and --ids are for many: give one or the other")
    if user is None and event_id is not None:
        raise click.UsageError("--id is of one event, with --user and --event; --ids NAME is for those of a FILE")
    if user is None and file is None and sys.stdin.isatty():
        raise click.UsageError("which events? Give a FILE, pipe them in, or say --user NAME --event TYPE")
    target = find_target(cluster=cluster, urls=urls, token_file=token_file, ca=ca)
    with ExitStack() as stack:
        record = Record(rejects=None if rejects is None else stack.enter_context(_opened(rejects, os.O_WRONLY)))
        if user is None:
            descriptor = stack.enter_context(_descriptor(file))
            namespace = None if ids is None else ids.encode()
            code = asyncio.run(_send_many(target, descriptor, namespace, record, give_up))
        else:
            name = sys.stdin.readline().rstrip("\n") if user == STANDARD_INPUT else user
            fields = {"user": name, "event": event, **({} if event_id is None else {"id": event_id})}
            code = asyncio.run(_send_one(target, fields, at, record, give_up))
    if as_json:
        click.echo(json.dumps(record.plain(), indent=1))
    else:
        for line in record.told():
            click.echo(line if user is None else line.replace("line 1: ", ""))
    if record.undelivered and not record.accepted:
        click.echo(target.hint, err=True)
        return code or InputOutputFailed.exit_code
    return code or (0 if record.well else 1)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[IO[bytes]]:
    try:
        file = path.open("wb" if flags & os.O_WRONLY else "rb")
    except OSError as error:
        raise InputOutputFailed(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        yield file


@contextlib.contextmanager
def _descriptor(file: Path | None) -> Iterator[int]:
    if file is None or str(file) == STANDARD_INPUT:
        yield sys.stdin.fileno()
        return
    with _opened(file, os.O_RDONLY) as opened:
        yield opened.fileno()


async def _send_one(
    target: Target, fields: dict[str, str | None], at: Moment, record: Record, give_up_seconds: float
) -> int:
    from tallyslice.questions import AnyNode, Questions  # noqa: PLC0415 - slow to import

    async with AsyncExitStack() as stack:
        delivery, session = await _delivery(stack, target, record, give_up_seconds)
        nodes = AnyNode(target=target, questions=Questions(session=session, headers=target.headers))
        timestamp = await instant_of(at, nodes) / 1_000_000
        line = json.dumps({"timestamp": timestamp, **fields}).encode()
        await delivery.deliver(Parcel(numbers=[1], lines=[line]))
    return 0


async def _send_many(target: Target, descriptor: int, ids: bytes | None, record: Record, give_up_seconds: float) -> int:
    async with AsyncExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        delivery, _ = await _delivery(stack, target, record, give_up_seconds)
        source = Source(descriptor=descriptor, ids=ids)
        source.start()
        sending = asyncio.create_task(delivery.run(source), name="sending")
        showing = asyncio.create_task(_show(error_console(), source, record), name="showing")
        try:
            await _until(sending, interrupts.finish)
            if not sending.done():
                source.stop()
                await _until(sending, interrupts.hurry)
            if sending.done():
                sending.result()
        except SourceFailed as error:
            raise InputOutputFailed(f"The input cannot be read on: {error}. {next(record.told())}") from error
        finally:
            for task in (sending, showing):
                task.cancel()
            await asyncio.gather(sending, showing, return_exceptions=True)
        return EXIT_INTERRUPTED if interrupts.finish.is_set() else 0


async def _until(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait for a task, but not longer than for an event."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _delivery(
    stack: AsyncExitStack, target: Target, record: Record, give_up_seconds: float
) -> tuple[Delivery, aiohttp.ClientSession]:
    from tallyslice.send.delivery import Delivery  # noqa: PLC0415 - slow to import

    session = await stack.enter_async_context(target.session())
    return Delivery(session=session, target=target, record=record, give_up_seconds=give_up_seconds), session


async def _show(console: Console, source: Source, record: Record) -> None:
    """Show how far it came, on a terminal, until cancelled."""
    if not console.is_terminal:
        return
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn()) if source.size_bytes else ()
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=source.size_bytes)
        began = time.monotonic()
        while True:
            rate = record.accepted / max(time.monotonic() - began, 1e-3)
            trouble = f", trying again: {record.trouble}" if record.trouble else ""
            rejected = f", {record.rejected:,} rejected" if record.rejected else ""
            text = f"{record.accepted:,} accepted ({rate:,.0f} a second){rejected}{trouble}"
            progress.update(task, description=text, completed=source.read_bytes)
            await asyncio.sleep(SHOW_SECONDS)
