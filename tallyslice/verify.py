"""``tallyslice verify DATA``: is the data folder of a node that is stopped, or a copy of one, as it was written?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from tallyslice.screen import error_console

if TYPE_CHECKING:
    from tallyslice.data_folder import Findings


@click.command
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(folder: Path, as_json: bool) -> int:
    """Verify DATA: the data folder of a worker or an API node that is stopped, a copy of one, or that of `up`.

    \b
    Examples:
      tallyslice verify /srv/tallyslice/worker-2
      tallyslice verify /backup/worker-2 --json
      tallyslice verify data/run-20261122-120000

    Every page of every file is read, so it takes a while: about a second per million users. Nothing is repaired.

    Exit status 0 if all is sound; 1 if something is not; 70 if it cannot be read; 75 if a node runs on it; 78 if it is
    no data folder.
    """
    found = asyncio.run(_verify(folder))
    sound = not any(one.problems for one in found)
    if as_json:
        click.echo(json.dumps({"sound": sound, "folders": [*map(_plain, found)]}, indent=1))
    else:
        for one in found:
            for line in told(one):
                click.echo(line)
    return 0 if sound else 1


async def _verify(folder: Path) -> list[Findings]:
    from tallyslice.data_folder import node_folders, size_of, verify  # noqa: PLC0415 - slow to import

    folders = node_folders(folder)
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verifying", total=sum(map(size_of, folders)))
        return [await verify(one, advance=lambda size: progress.advance(task, size)) for one in folders]


def _plain(found: Findings) -> dict[str, Any]:
    return {**asdict(found), "folder": str(found.folder)}


def told(found: Findings) -> Iterator[str]:
    """For people: what it is, then what is wrong with it."""
    who = f"worker {found.node}" if found.kind == "worker" else "an API node"
    cluster = f"of cluster {found.cluster}" if found.cluster else "of no cluster yet"
    yield f"{found.folder}: {who} {cluster}; {', '.join(_held(found))}"
    for note in found.notes:
        yield f"  {note}"
    for problem in found.problems:
        yield f"  ! {problem.file}: {problem.problem}"
    yield "  sound" if not found.problems else f"  {len(found.problems):,} problems"


def _held(found: Findings) -> Sequence[str]:
    if found.kind != "worker":
        return [f"{found.spooled:,} events in its spools"]
    users = sum(one["users"] for one in found.slices)
    registry = [] if found.routes is None else [f"the registry with {found.routes:,} routes"]
    return [f"{len(found.slices):,} slice files with {users:,} users", f"{found.closed:,} closed slices", *registry]
