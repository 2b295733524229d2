"""``tallyslice query``: what the cluster counts, of one slice or of all, as a table or as the API's own JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from common.slices import Micros, SliceId
from common.summaries import CLICK, IMPRESSION
from tallyslice.instants import FORMS, Moment, read_moment
from tallyslice.screen import new_console, new_table
from tallyslice.target import Target, find_target, target_options

if TYPE_CHECKING:
    from tallyslice.questions import AnyNode


class SliceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an answer; a worker that did not answer has no numbers."""

    slice: SliceId
    start: str = ""
    end: str = ""
    unique_users: int | None = None
    events: dict[str, int] = {}
    complete: bool = True
    late: int = 0
    spooled: int = 0
    worker: str = ""
    url: str | None = None


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    slices: tuple[SliceAnswer, ...] = ()
    workers: tuple[SliceAnswer, ...] = ()


class MomentType(click.ParamType[Moment]):
    """A time as people say it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Moment:  # noqa: ANN401 - click's signature
        """The moment, read against the time of day."""
        if isinstance(value, Moment):
            return value
        try:
            return read_moment(value, now=Micros(time.time_ns() // 1000))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command
@target_options()
@click.option(
    "--at", metavar="TIME", default="now", show_default=True, type=MomentType(), help=f"Which slice: {FORMS}."
)
@click.option("--all", "of_all", is_flag=True, help="Every slice that holds data, up to the one of --at.")
@click.option("--per-worker", is_flag=True, help="What each worker holds of the slice, in route order.")
@click.option("--partial", is_flag=True, help="If a worker does not answer: the sum of the rest, marked incomplete.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON of the API node, as it is.")
def query(  # noqa: PLR0917 - click hands its options over by name
    cluster: Path | None,
    urls: tuple[str, ...],
    token_file: Path | None,
    ca: Path | None,
    at: Moment,
    of_all: bool,
    per_worker: bool,
    partial: bool,
    as_json: bool,
) -> int:
    """Ask what is counted: unique users and events of a slice.

    \b
    Examples:
      tallyslice query                          the slice of now
      tallyslice query --at -1h --per-worker    an hour ago, worker by worker
      tallyslice query --at 41                  slice 41
      tallyslice query --all --json             every slice, for a program

    Exit status 0; 1 if the numbers are known not to be complete; 70 if no API node can answer.
    """
    if of_all and per_worker:
        raise click.UsageError("--all is of whole slices, and --per-worker of one: give one of them")
    target = find_target(cluster=cluster, urls=urls, token_file=token_file, ca=ca)
    path = "/analytics/allslices" if of_all else "/analytics/perworker" if per_worker else "/analytics"
    body = asyncio.run(_ask(target, path, at, partial=partial))
    answers = _answers(body, listed=of_all or per_worker)
    if as_json:
        click.echo(body)
    else:
        show(new_console(), answers, per_worker=per_worker)
    return 0 if all(answer.complete for answer in answers) else 1


async def _ask(target: Target, path: str, at: Moment, *, partial: bool) -> bytes:
    from tallyslice.questions import AnyNode, Questions  # noqa: PLC0415 - slow to import

    async with target.session() as session:
        nodes = AnyNode(target=target, questions=Questions(session=session, headers=target.headers))
        instant = await instant_of(at, nodes)
        rest = "&partial=true" if partial else ""
        return await nodes.fetch(f"{path}?format=json&timestamp={instant / 1_000_000:.6f}{rest}")


async def instant_of(at: Moment, nodes: AnyNode) -> Micros:
    """An instant in what is meant; asks the cluster only where a slice is meant.

    Raises:
        click.UsageError: there is no such time.
    """
    if at.instant is not None:
        return at.instant
    try:
        return at.within(await nodes.clock())
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _answers(body: bytes, *, listed: bool) -> Sequence[SliceAnswer]:
    if not listed:
        return [msgspec.json.decode(body, type=SliceAnswer)]
    found = msgspec.json.decode(body, type=_Listed)
    return [*found.slices, *found.workers]


def show(console: Console, answers: Sequence[SliceAnswer], *, per_worker: bool) -> None:
    """Print a table of the answers, and below it what there is to know of them."""
    if not answers:
        console.print("No slice holds data.")
        return
    console.print(_table(answers, per_worker=per_worker))
    for line in _notes(answers):
        console.print(line)


def _table(answers: Sequence[SliceAnswer], *, per_worker: bool) -> Table:
    others = sorted({name for answer in answers for name in answer.events} - {CLICK, IMPRESSION})
    numbers = ("Users", "Clicks", "Impressions", *others)
    firsts = ("Worker", "URL") if per_worker else ("Slice", "From (UTC)", "To")
    table = new_table(*firsts, *numbers, "", numbers=("Slice", *numbers), title=_title(answers) if per_worker else None)
    for answer in answers:
        place = (answer.worker, answer.url or "") if per_worker else (str(answer.slice), *_span(answer))
        counts = (f"{answer.events.get(name, 0):,}" for name in (CLICK, IMPRESSION, *others))
        if answer.unique_users is None:
            table.add_row(*place, *("?" for _ in numbers), "no answer")
        else:
            table.add_row(*place, f"{answer.unique_users:,}", *counts, "" if answer.complete else "incomplete")
    return table


def _title(answers: Iterable[SliceAnswer]) -> str:
    first = next(iter(answers))
    start, end = _span(first)
    return f"Slice {first.slice}" + (f", {start} to {end} (UTC)" if start else "")


def _span(answer: SliceAnswer) -> tuple[str, str]:
    """From when to when, the end without a date where that is the same."""
    start, end = (text.removesuffix("Z").replace("T", " ") for text in (answer.start, answer.end))
    return start, end[11:] if end[:10] == start[:10] else end


def _notes(answers: Sequence[SliceAnswer]) -> Iterator[str]:
    if spooled := sum(answer.spooled for answer in answers):
        yield f"{spooled:,} more events are in the spool of the node that answered: their worker is away."
    if late := sum(answer.late for answer in answers):
        yield f"{late:,} events came after their slice was closed: they are in no number of users."
    if not all(answer.complete for answer in answers):
        yield "Incomplete: a worker did not answer, or is known to have lost data, or events came late."
