"""``tallyslice registry``: when the registry, or a worker's disk, is lost.

``rebuild`` puts the registry together from what all nodes know. ``replace-worker`` lets a worker go on with an empty
data directory, and marks what was in the lost one. What happens is in ``recovery``; here it is asked for, and shown.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from common.config import ClusterConfig, load_config, load_token
from common.routing import WorkerId
from common.slices import Micros, SliceId, format_instant
from tallyslice.screen import plain_console
from tallyslice.target import cluster_option, default_file, node_tls, read_token, token_option

if TYPE_CHECKING:
    from tallyslice.recovery import Rebuilt, Recovery, Replaced

T = TypeVar("T")

SLICES_SHOWN_MAX = 20

_cluster_file = click.argument("cluster_file", required=False, type=click.Path(path_type=Path))


@click.group
def registry() -> None:
    """When the registry, or a worker's disk, is lost."""


@registry.command
@_cluster_file
@cluster_option
@click.option(
    "--without",
    "lost",
    multiple=True,
    metavar="NODE",
    help="A node that is lost for good and is not asked, such as worker-0 or api-1. May be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@token_option
def rebuild(
    cluster_file: Path | None, cluster: Path | None, lost: Sequence[str], dry_run: bool, token_file: Path | None
) -> None:
    """Rebuild the registry of a cluster (CLUSTER_FILE, or --cluster FILE) from what all its nodes know.

    \b
    Examples:
      tallyslice registry rebuild --dry-run --cluster /srv/tallyslice/cluster.json
      tallyslice registry rebuild --without worker-2 --cluster /srv/tallyslice/cluster.json

    Every node must answer. With --without, slices that began before now and that nobody else knows of answer 503 from
    then on: whether they hold anything is not known.
    """
    config = load_config(_file(cluster_file, cluster))
    without = frozenset(_node(config, name) for name in lost)
    console = plain_console()
    now = Micros(time.time_ns() // 1000)
    rebuilt = _with_recovery(
        config,
        console,
        lambda recovery: recovery.rebuild(without=without, now=now, dry_run=dry_run),
        api_token=read_token(token_file),
    )
    _show_rebuilt(console, rebuilt, is_done=not dry_run)
    _say(console, "Nothing was changed: this was a dry run." if dry_run else "The registry is rebuilt.")
    _warn_deaf(console, rebuilt.deaf)


@registry.command("replace-worker")
@click.argument("worker", metavar="ID")
@_cluster_file
@cluster_option
@token_option
def replace_worker(worker: str, cluster_file: Path | None, cluster: Path | None, token_file: Path | None) -> None:
    """Pin the data directory that worker ID of a cluster runs on now, in place of the one that was lost.

    \b
    Example:
      tallyslice registry replace-worker 2 --cluster /srv/tallyslice/cluster.json

    Slices that were settled before are incomplete for good, unless their files were put into the new directory first.
    """
    file = _file(cluster_file, cluster)
    config = load_config(file)
    if worker not in config.worker_nodes:
        known = ", ".join(config.worker_nodes)
        message = f"no worker {worker} in {file}; known: {known}"
        raise click.UsageError(message)
    console = plain_console()
    replaced = _with_recovery(
        config,
        console,
        lambda recovery: recovery.replace_worker(WorkerId(worker)),
        api_token=read_token(token_file),
    )
    _show_replaced(console, worker, replaced)
    _warn_deaf(console, replaced.deaf)


def _file(cluster_file: Path | None, cluster: Path | None) -> Path:
    if cluster_file is not None and cluster is not None:
        raise click.UsageError("CLUSTER_FILE and --cluster both say which cluster: give one of them")
    return cluster_file or cluster or default_file()


def _with_recovery(
    config: ClusterConfig,
    console: Console,
    work: Callable[[Recovery], Coroutine[Any, Any, T]],
    *,
    api_token: str | None,
) -> T:
    import aiohttp  # noqa: PLC0415 - slow to import: whoever asks for help should not wait for it

    from tallyslice.recovery import Recovery  # noqa: PLC0415 - likewise

    tls = node_tls(config)

    async def run() -> T:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls or True), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            recovery = Recovery(
                session=session,
                config=config,
                token=load_token(config),
                api_token=api_token,
                tell=lambda line: _say(console, line),
            )
            return await work(recovery)

    return asyncio.run(run())


def _node(config: ClusterConfig, name: str) -> str:
    """A node's name in full; its plain id will do where only one node has it."""
    names = [*(f"worker-{worker}" for worker in config.worker_nodes), *(f"api-{api}" for api in config.api_nodes)]
    if name in names:
        return name
    found = [one for one in names if one.partition("-")[2] == name]
    if len(found) == 1:
        return found[0]
    message = f"{name} may be {' or '.join(found)}" if found else f"no node {name}; known: {', '.join(names)}"
    raise click.BadParameter(message, param_hint="--without")


def _show_rebuilt(console: Console, rebuilt: Rebuilt, *, is_done: bool) -> None:
    merged = rebuilt.merged
    times = Counter(one.slice for told in rebuilt.told for one in told.routes.values())
    table = Table("Who", "Routes", "Known to nobody else", "Highest claim", title="Told", title_justify="left")
    for told in rebuilt.told:
        alone = sum(times[slice_id] == 1 for slice_id in told.routes)
        table.add_row(told.who, f"{len(told.routes):,}", f"{alone:,}", f"{told.claims:,}")
    console.print(table)
    settled, number = ("are settled", "is") if is_done else ("would be settled", "would be")
    _say(console, f"Cluster {merged.pins.cluster}: {len(merged.routes):,} slices {settled}.")
    highest = f"the highest that anybody {'knew was' if is_done else 'knows is'} {merged.known:,}"
    _say(console, f"The claim number {number} {merged.claims:,}; {highest}.")
    answer = "answer" if is_done else "would answer"
    if merged.unclear:
        shown = _slices(merged.unclear)
        _say(console, f"Damaged, and their routes known to nobody else: slices {shown}. They {answer} 503.")
    if merged.pins.unknown_before is not None:
        instant = format_instant(merged.pins.unknown_before)
        _say(console, f"Slices that began before {instant} and are not settled {answer} 503: nobody knows of them.")


def _show_replaced(console: Console, worker: str, replaced: Replaced) -> None:
    if replaced.was_well:
        _say(console, f"Nothing to do: worker {worker} runs on the data directory that is pinned.")
        return
    _say(console, f"Worker {worker} is known by data directory {replaced.pins.workers[WorkerId(worker)]}.")
    missing = replaced.lost - replaced.restored
    if replaced.restored:
        _say(console, f"{len(replaced.restored):,} slices were restored.")
    if missing:
        _say(console, f"{len(missing):,} slices are incomplete for good: {_slices(sorted(missing))}.")


def _slices(slices: Sequence[SliceId]) -> str:
    shown = ", ".join(map(str, slices[:SLICES_SHOWN_MAX]))
    return shown if len(slices) <= SLICES_SHOWN_MAX else f"{shown} and {len(slices) - SLICES_SHOWN_MAX:,} more"


def _warn_deaf(console: Console, deaf: Iterable[str]) -> None:
    for line in deaf:
        _say(console, f"Has not heard of it yet: {line}")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)
