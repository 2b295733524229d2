"""``tallyslice load URL...``: load a running cluster with random users, and check that it counted exactly them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import uvloop
from rich.console import Console

from common.config import load_config
from tallyslice.interrupts import Interrupts
from tallyslice.load.order import CLOSED_CONNECTIONS, OPEN_CONNECTIONS, RATE, SECONDS, USERS, Order
from tallyslice.load.run import Result, load_and_check
from tallyslice.screen import new_console
from tallyslice.target import ca_option, cluster_option, node_tls, origin, read_token, token_option

# Beyond what one process sends, what anybody waits for, what a process has descriptors for, and what a node takes.
RATE_MAX, SECONDS_MAX, CONNECTIONS_MAX, BULK_MAX = 1_000_000.0, 1_000_000.0, 10_000, 65_536
PERCENT = 100.0

seconds_option = click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(0, SECONDS_MAX, min_open=True),
    help=f"How long.  [default: {SECONDS:g}]",
)
rate_option = click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(0, RATE_MAX, min_open=True),
    help=f"Events a second, in all.  [default: {RATE:g}]",
)
seed_option = click.option("--seed", metavar="N", type=int, help="Let the same users do the same things in each run.")


@click.command
@click.argument("urls", nargs=-1, metavar="[URL...]")
@cluster_option
@rate_option
@click.option("--closed", is_flag=True, help="As fast as it goes, instead of at a rate.")
@seconds_option
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(1, CONNECTIONS_MAX),
    help=f"Requests under way at a time, at most.  [default: {OPEN_CONNECTIONS}; {CLOSED_CONNECTIONS} with --closed]",
)
@click.option(
    "--bulk",
    metavar="K",
    type=click.IntRange(1, BULK_MAX),
    help="Send K events a request, to POST /events, instead of one by one to POST /analytics.",
)
@click.option(
    "--reads",
    metavar="PERCENT",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, PERCENT),
    help="How many of the requests are GET /analytics; with 100, --rate is theirs.",
)
@click.option(
    "--users", metavar="N", default=USERS, show_default=True, type=click.IntRange(1), help="How many users there are."
)
@click.option(
    "--new",
    metavar="PERCENT",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, PERCENT),
    help="How many of the events are of users who come for the first time.",
)
@click.option(
    "--ids/--no-ids",
    default=True,
    show_default=True,
    help="Whether events have ids, so that what got no answer is sent again.",
)
@seed_option
@click.option(
    "--cache-ttl",
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="The cluster's cache-ttl-seconds; with --cluster that of the file.",
)
@token_option
@ca_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing before it.")
def load(  # noqa: PLR0917 - click hands its options over by name
    urls: tuple[str, ...],
    cluster: Path | None,
    rate: float | None,
    closed: bool,
    seconds: float | None,
    connections: int | None,
    bulk: int | None,
    reads: float,
    users: int,
    new: float,
    ids: bool,
    seed: int | None,
    cache_ttl: float,
    token_file: Path | None,
    ca: Path | None,
    as_json: bool,
) -> int:
    """Load a running cluster through the API nodes at URL... with random users, and check that all is counted.

    \b
    Examples:
      tallyslice load http://localhost:8000 --rate 2000 --reads 10 --seconds 60
      tallyslice load --cluster etc/cluster.json --closed --bulk 1000 --seconds 30

    Clicks and impressions, a tenth of them up to two minutes late, each event with an id and sent again until it is
    acknowledged. At a fixed rate, whatever the cluster does: latencies count from when a request was due. At the end,
    every API node's counts must have grown by exactly what was acknowledged, slice by slice; so the check only makes
    sense for slices that nobody else feeds meanwhile.

    Exit status 0 if the check held, 1 if not. Ctrl-C ends the load early, and checks what was sent.
    """
    if closed and rate is not None:
        raise click.UsageError("--closed is as fast as it goes: it has no --rate")
    if (cluster is None) == (not urls):
        raise click.UsageError("which cluster? Give the URL of an API node, or several, or --cluster FILE")
    config = None if cluster is None else load_config(cluster)
    order = Order(
        nodes=tuple(map(_origin, urls if config is None else config.api_nodes.values())),
        rate=None if closed else rate or RATE,
        seconds=seconds or SECONDS,
        connections=connections,
        bulk=bulk,
        reads=reads / PERCENT,
        users=users,
        new=new / PERCENT,
        ids=ids,
        seed=seed,
        cache_ttl_seconds=cache_ttl if config is None else config.cache_ttl_seconds,
        tls=node_tls(config, ca=ca),
        token=read_token(token_file),
    )
    result = uvloop.run(_load(order, Console(file=io.StringIO()) if as_json else new_console()))
    if as_json:
        click.echo(json.dumps(result.plain(), indent=1))
    return 0 if result.held else 1


def _origin(url: str) -> str:
    try:
        return origin(url)
    except ValueError as error:
        raise click.BadParameter(f"{url}: {error}", param_hint="URL") from error


async def _load(order: Order, console: Console) -> Result:
    with Interrupts() as interrupts:
        return await load_and_check(order, console=console, interrupts=interrupts)
