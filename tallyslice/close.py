"""``tallyslice close SLICE``: a slice ends for good now, and not when ``close-after-seconds`` says so."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.errors import ExitError
from common.slices import Micros
from tallyslice.instants import Moment
from tallyslice.query import MomentType
from tallyslice.screen import new_console, new_table
from tallyslice.target import Target, find_target, target_options

if TYPE_CHECKING:
    from common.config import ClusterConfig
    from tallyslice.ending import Ended, Prospect


# Slice -3, and -1h for an hour ago, must not pass for options: so no unknown one is refused, and -h is not help here.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("at", metavar="SLICE", type=MomentType())
@target_options(by_url=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Close it also if events of it may still come, or wait in a spool.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; needs --yes.")
def close(  # noqa: PLR0917 - click hands its options over by name
    at: Moment,
    cluster: Path | None,
    token_file: Path | None,
    ca: Path | None,
    yes: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Close SLICE, its number or a time in it, at every worker: its counts stay, its users and ids go for good.

    \b
    Examples:
      tallyslice close 41
      tallyslice close 2017-05-20T12:00 --yes --cluster /srv/tallyslice/cluster.json

    A slice that has not ended cannot be closed. Later events for a closed slice are refused (422 slice-closed).

    Exit status 0 if it is closed; 1 if it cannot be, or not at every worker: then run it again; 70 if a node does not
    answer, and nothing was closed.
    """
    if as_json and not yes:
        raise click.UsageError("--json asks no question: it needs --yes")
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask: --yes closes it without a question")
    target = find_target(cluster=cluster, token_file=token_file, ca=ca)
    config = target.config
    assert config is not None  # noqa: S101 - without --url there is one
    prospect, ended = asyncio.run(_close(target, config, at, yes=yes, force=force))
    if as_json:
        click.echo(json.dumps(plain(prospect, ended), indent=1))
    else:
        show(prospect, ended)
    return 0 if all(one.closed is not None for one in ended) else 1


async def _close(
    target: Target, config: ClusterConfig, at: Moment, *, yes: bool, force: bool
) -> tuple[Prospect, list[Ended]]:
    from tallyslice.ending import Ending  # noqa: PLC0415 - slow to import: whoever asks for help should not wait for it

    now = Micros(time.time_ns() // 1000)
    async with target.session() as session:
        ending = Ending(session=session, target=target, config=config, now=now)
        prospect = await ending.prospect(await ending.slice_of(at))
        if prospect.objections and not force:
            lines = [f"slice {prospect.slice} was not closed:", *(f"  {one}" for one in prospect.objections)]
            lines.append("With --force it is: what comes later is refused, or counts as late, its users not at all.")
            raise ExitError("\n".join(lines))
        if not yes:
            for objection in prospect.objections:
                click.echo(f"! {objection}", err=True)
            if not click.confirm(_question(prospect), err=True):
                raise ExitError("Nothing was closed.")
        return prospect, await ending.close(prospect)


def _question(prospect: Prospect) -> str:
    summary = prospect.summary
    told = ""
    if summary is not None and summary.unique_users is not None:
        told = f", with {summary.unique_users:,} users and {sum(summary.events.values()):,} events"
    at = f"at {'workers' if len(prospect.route) > 1 else 'worker'} {', '.join(prospect.route)}"
    return f"Close slice {prospect.slice} ({prospect.span}){told}, {at}? Its set of users goes for good."


def plain(prospect: Prospect, ended: Sequence[Ended]) -> dict[str, Any]:
    """As JSON; the counts are of the workers that have closed it."""
    users, counts = _totals(ended)
    return {
        "slice": prospect.slice,
        "closed": all(one.closed is not None for one in ended),
        "unique_users": users,
        "events": counts,
        "complete": all(one.closed is not None and one.closed.complete for one in ended),
        "workers": [
            {
                "worker": one.worker,
                "closed": one.closed is not None,
                "was_closed": one.closed is not None and one.closed.was_closed,
                "problem": one.problem,
            }
            for one in ended
        ],
    }


def show(prospect: Prospect, ended: Sequence[Ended]) -> None:
    """Print it for people."""
    table = new_table("Worker", "", "Users", "Events", numbers=("Users", "Events"))
    for one in ended:
        if one.closed is None:
            table.add_row(one.worker, f"not closed: {one.problem}")
        else:
            what = "was closed already" if one.closed.was_closed else "closed"
            table.add_row(one.worker, what, f"{one.closed.users:,}", f"{sum(one.closed.counts.values()):,}")
    console = new_console()
    console.print(table)
    users, counts = _totals(ended)
    if all(one.closed is not None for one in ended):
        told = ", ".join([f"{users:,} users", *(f"{count:,} {name}s" for name, count in counts.items())])
        console.print(f"Slice {prospect.slice} is closed: {told}.")
    else:
        console.print(f"Slice {prospect.slice} is not closed everywhere: run this again when its workers are there.")


def _totals(ended: Sequence[Ended]) -> tuple[int, dict[str, int]]:
    counts: Counter[str] = Counter()
    for one in ended:
        counts.update({} if one.closed is None else one.closed.counts)
    return sum(one.closed.users for one in ended if one.closed is not None), dict(sorted(counts.items()))
