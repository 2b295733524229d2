"""``tallyslice backup DATA TARGET``: a copy of a worker's data folder, made while the worker runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from common.slices import SliceId
from tallyslice.screen import error_console

if TYPE_CHECKING:
    from tallyslice.live_copy import Backup


@click.command
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@click.option("--slice", "slices", type=int, multiple=True, help="Only this slice; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def backup(folder: Path, target: Path, slices: tuple[int, ...], as_json: bool) -> int:
    """Copy DATA, the data folder of a worker, to TARGET, a new folder. The worker may run, and take events.

    \b
    Examples:
      tallyslice backup /srv/tallyslice/worker-2 /backup/worker-2-$(date +%F)
      tallyslice backup /srv/tallyslice/worker-2 /backup/slice-41 --slice 41
      tallyslice verify /backup/worker-2-2026-11-22

    Each slice file is copied as its last commit left it: what was acknowledged before is in it. Run it on the machine
    of the worker, as the worker's user. A copy that breaks off leaves nothing, or, if it was killed, TARGET.partial.

    Exit status 0 if all is copied; 1 if a file is damaged, and so is not; 70 if something cannot be read or written; 78
    if DATA is no worker's folder, or TARGET is there already.
    """
    from tallyslice.live_copy import back_up, planned, time_of_day  # noqa: PLC0415 - slow to import

    plan = planned(folder, only=[SliceId(one) for one in slices])
    console = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("copying", total=plan.size_bytes)
        done = back_up(plan, target, now=time_of_day, advance=lambda size: progress.advance(task, size))
    if as_json:
        click.echo(json.dumps(_plain(done, target), indent=1))
    else:
        for line in _told(done, target):
            click.echo(line)
    return 1 if done.problems else 0


def _plain(done: Backup, target: Path) -> dict[str, object]:
    import msgspec  # noqa: PLC0415 - with the rest

    return {"target": str(target), **msgspec.to_builtins(done)}


def _told(done: Backup, target: Path) -> list[str]:
    slices = sum(1 for one in done.files if one.file.startswith("slices/"))
    what = [f"{slices:,} slice files", *(one.file for one in done.files if not one.file.startswith("slices/"))]
    size = sum(one.bytes for one in done.files)
    return [
        f"worker {done.worker}: {', '.join(what)}; {size:,} bytes in {target}",
        *(f"  ! {problem}" for problem in done.problems),
    ]
