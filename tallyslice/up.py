"""``tallyslice up``: a whole cluster on this machine, with a data folder of its own; fed and checked if asked for.

::

    cluster file good, ports free -> data folder -> workers, API nodes -> all ready -> feed and check
        -> idle until Ctrl-C -> API nodes stop, then workers
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path

import aiohttp
import click
import uvloop
from rich.console import Console

from common.config import is_https, load_token
from common.errors import NotPermitted, PeerAway
from common.judge import show_route
from common.routing import RoutingEntry
from common.slices import SECOND, Micros, format_instant
from tallyslice.cluster import ClusterFolder, open_folder, start_nodes, until_ready
from tallyslice.interrupts import Interrupts
from tallyslice.load.command import rate_option, seconds_option, seed_option
from tallyslice.load.order import RATE, SECONDS, Order
from tallyslice.load.run import load_and_check, now
from tallyslice.processes import STOP_SECONDS, Ended, Node, Processes
from tallyslice.questions import Questions
from tallyslice.screen import new_console
from tallyslice.target import node_tls, origin, read_token, token_headers, token_option

EDIT_SECONDS = 60  # ahead of now is the example of an edit: time enough to make it
BAD = "bold red"


@click.command
@click.argument("cluster_file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The data folder: a new one, or that of an earlier run, which then goes on.  [default: data/run-TIME]",
)
@click.option("--feed", "with_feed", is_flag=True, help="Feed random users to all API nodes, and check the counts.")
@seconds_option
@rate_option
@seed_option
@click.option("--exit", "leave", is_flag=True, help="Stop after feeding instead of leaving the idle cluster running.")
@token_option
def up(  # noqa: PLR0917 - click hands its options over by name
    cluster_file: Path | None,
    data: Path | None,
    with_feed: bool,
    seconds: float | None,
    rate: float | None,
    seed: int | None,
    leave: bool,
    token_file: Path | None,
) -> int:
    """Run every node of CLUSTER_FILE on this machine, until Ctrl-C.

    Without CLUSTER_FILE it is etc/cluster.json, or where there is none the example that comes with Tallyslice.

    \b
    Examples:
      tallyslice up                                     until Ctrl-C
      tallyslice up --feed --seconds 30                 fed with random users, and checked
      tallyslice up --data data/run-20261122-120000     goes on with an earlier run

    The nodes read a copy of the file in the data folder; edit it while they run. Ctrl-C during the feeding ends it
    early, checks what was fed, and stops the cluster.

    Exit status 0; 1 if the check of --feed did not hold or a node did not stop properly; 69 if a port is in use; 78 if
    the file cannot be used.
    """
    if not with_feed and (seconds, rate, seed) != (None, None, None):
        raise click.UsageError("--seconds, --rate and --seed say how to feed: they need --feed")
    folder = open_folder(cluster_file, data, now=datetime.now().astimezone())
    # API nodes take the internal token from clients too.
    token = read_token(token_file) or load_token(folder.config)
    order = Order(
        nodes=tuple(origin(url) for url in folder.config.api_nodes.values()),
        rate=rate or RATE,
        seconds=seconds or SECONDS,
        seed=seed,
        cache_ttl_seconds=folder.config.cache_ttl_seconds,
        token=token,
        tls=node_tls(folder.config),
    )
    return uvloop.run(_Run(folder, new_console(), token=token).run(order if with_feed else None, leave=leave))


class _Run:
    """One run of the command, and what it says on the screen."""

    def __init__(self, folder: ClusterFolder, console: Console, *, token: str | None) -> None:
        self._token = token
        self._folder = folder
        self._console = console

    async def run(self, order: Order | None, *, leave: bool) -> int:
        """From the first process to the last; the exit code."""
        config = self._folder.config
        self._console.print(
            f"Starting {len(config.worker_nodes)} workers and {len(config.api_nodes)} API nodes;"
            f" everything of theirs is in {_shown(self._folder.path)}"
        )
        held = True
        # Outermost, so that no signal cuts short how the nodes are stopped.
        with Interrupts() as interrupts:
            async with Processes(on_end=self._tell_end) as processes:
                await start_nodes(self._folder, processes)
                if await until_ready(self._folder, processes, self._tell_ready, stop=interrupts.finish):
                    if order is not None:
                        held = (await load_and_check(order, console=self._console, interrupts=interrupts)).held
                    if not leave and not interrupts.finish.is_set():
                        await self._tell_what_to_try()
                        await interrupts.finish.wait()
                self._console.print("Stopping the nodes.")
        self._console.print(f"Stopped. `{self._again()}` goes on from here.", soft_wrap=True)
        return 0 if held and not any(ended.asked and not ended.well for ended in processes.ended) else 1

    def _again(self) -> str:
        """The command that goes on with this run, as it can be typed without the environment being active."""
        command = _shown(Path(sys.executable).with_name("tallyslice"))
        return shlex.join((str(command), "up", "--data", str(_shown(self._folder.path))))

    def _tell_ready(self, node: Node) -> None:
        self._console.print(f"  {node.name:<10} ready  {node.url}")

    def _tell_end(self, ended: Ended) -> None:
        if ended.well:
            return
        if ended.asked and ended.code == -signal.SIGKILL:
            what = f"{ended.node.name} did not stop within {STOP_SECONDS:g} s of SIGTERM and was KILLED"
        else:
            what = str(ended) if ended.asked else f"{ended} and is not started again"
        self._console.print(f"{what}; the end of {_shown(ended.node.log)}:", style=BAD)
        for text in ended.tail():
            self._console.print(f"  {text}", soft_wrap=True)
        if not ended.asked:
            self._console.print(f"To start it by hand: {shlex.join(ended.node.command)}", soft_wrap=True)

    async def _tell_what_to_try(self) -> None:
        config = self._folder.config
        first, *_, last = [*config.api_nodes.values()] * 2
        # What a certificate of an own CA needs; others need nothing.
        ca = None if config.tls is None or not is_https(first) else config.tls.ca
        curl = "curl" if ca is None else f"curl --cacert {_shown(ca)}"
        example = await self._example_of_edit()
        self._console.print(
            f"""
The cluster runs. Try it:
  {curl} '{first}'
  {curl} '{last}/perworker'
  {curl} '{first}/allslices?format=json'
  {curl} '{origin(last)}/cluster'
  {curl} -X POST "{first}?timestamp=$(date +%s)&user=ada&click"
Change it while it runs: edit {_shown(self._folder.file)} and see what GET /cluster says.
  {example}
Logs are in {_shown(self._folder.path / "logs")}; Ctrl-C stops every node.""",
            soft_wrap=True,
        )

    async def _example_of_edit(self) -> str:
        """An edit of the routing that can be watched taking effect."""
        workers = list(self._folder.config.worker_nodes)
        connector = aiohttp.TCPConnector(ssl=node_tls(self._folder.config) or True)
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                questions = Questions(session=session, headers=token_headers(self._token))
                clock = (await questions.cluster(origin(next(iter(self._folder.config.api_nodes.values()))))).clock
            except (PeerAway, NotPermitted):
                clock = None
        if clock is None:
            return f'For example, add an entry to "routing" that sends a later slice to {show_route(workers[-1:])}.'
        at = without_entry(self._folder.config.routing, clock.slice_at(Micros(now() + EDIT_SECONDS * SECOND)) + 1)
        entry = f'{{ "slice": {at}, "nodes": {show_route(workers[-1:])} }}'
        return f'For example, add {entry} to "routing": it takes effect at {format_instant(clock.start(at))}.'


def without_entry(entries: Sequence[RoutingEntry], at: int) -> int:
    """The first slice from ``at`` on that the routing does not name: a second entry for one would be refused."""
    taken = {entry.slice for entry in entries}
    return next(slice_id for slice_id in count(at) if slice_id not in taken)


def _shown(path: Path) -> Path:
    """A path as short as it can be said."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
