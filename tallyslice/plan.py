"""``tallyslice plan OLD NEW``: what would change if NEW replaced OLD, before it does.

Given a running API node, what the cluster has pinned and settled is asked there (``GET /cluster``), so that the answer
is the one that the cluster itself would give.
"""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from rich.console import Console
from rich.table import Table

from common.config import load_config
from common.errors import ConfigRefused, InputOutputFailed
from common.judge import PlanLine, judge, route_plan, show_route
from common.routing import WorkerId
from common.wire import Pins, SettledRoute
from tallyslice.screen import plain_console
from tallyslice.target import node_tls, read_token, token_headers, token_option

ANSWER_BYTES_MAX = 64 << 20
TIMEOUT_SECONDS = 10.0


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """Of a node's ``GET /cluster``, what a plan needs.

    Attributes:
        pins: the cluster's constants; None before its first contact.
        settled: the settled routes that the node tells of.
        named: the workers that settled routes name; None if the node does not know.
    """

    pins: Pins | None = None
    settled: tuple[SettledRoute, ...] = ()
    named: frozenset[WorkerId] | None = None


def _origin(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        message = "must be the URL of an API node, such as http://localhost:8000/analytics"
        raise click.BadParameter(message)
    return f"{parts.scheme}://{parts.netloc}"


@click.command
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--api",
    "--url",
    "-u",
    "origin",
    callback=_origin,
    metavar="URL",
    help="A running API node, such as http://localhost:8000/analytics: asked for what is settled already.",
)
@token_option
def plan(old: Path, new: Path, origin: str | None, token_file: Path | None) -> None:
    """Show which slices would route where if the cluster file NEW replaced OLD, and whether it may.

    \b
    Examples:
      tallyslice plan cluster.json new.json
      tallyslice plan cluster.json new.json --url http://localhost:8000    with what is settled already

    Exit code 78 if one of the files cannot be used, or if NEW would be refused.
    """
    before, after = load_config(old), load_config(new)
    token = read_token(token_file)
    state = ClusterState() if origin is None else asyncio.run(_ask(origin, node_tls(before), token))
    verdict = judge(before, after, pins=state.pins, named=state.named)
    console = plain_console()
    if origin is None:
        console.print("What is settled already is not known: --url URL asks a running API node.", soft_wrap=True)
    _print_list(console, "Changes", verdict.changes or ("none",))
    settled = {one.slice: one.route for one in state.settled}
    console.print(_table(route_plan(before, after, settled), with_settled=origin is not None))
    if not verdict.accepted:
        raise ConfigRefused([f"{new} would be refused:", *verdict.refusals])
    console.print(f"{new} would be accepted.", soft_wrap=True)


def _print_list(console: Console, title: str, lines: tuple[str, ...]) -> None:
    console.print(f"{title}:")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True)


def _table(lines: tuple[PlanLine, ...], *, with_settled: bool) -> Table:
    headings = ("Slices", "Old file", "New file", *(("Settled",) if with_settled else ()), "Will go to")
    table = Table(*headings, title="Routes", title_justify="left")
    for line in lines:
        stands = line.settled
        settled = ("" if stands is None else show_route(stands),) if with_settled else ()
        table.add_row(line.slices, show_route(line.old), show_route(line.new), *settled, show_route(stands or line.new))
    return table


async def _ask(origin: str, tls: ssl.SSLContext | None, token: str | None) -> ClusterState:
    """What a running API node knows of its cluster.

    Raises:
        InputOutputFailed: it does not answer, or not with what an API node answers.
        NotPermitted: it wants a token, or another one.
    """
    import aiohttp  # noqa: PLC0415 - slow to import, and a plan without --api does not need it

    from api_node.peer import why_silent  # noqa: PLC0415 - likewise
    from tallyslice.questions import detail_of, not_permitted  # noqa: PLC0415 - likewise

    url = f"{origin}/cluster"
    headers = {"Accept": "application/json", **token_headers(token)}
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls or True), timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            ) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise not_permitted(url, response.status, detail_of(await response.read()))
            response.raise_for_status()
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    message = f"{url} answers with more than {ANSWER_BYTES_MAX} bytes"
                    raise InputOutputFailed(message)
        return msgspec.json.decode(body, type=ClusterState)
    except aiohttp.ClientResponseError as error:
        message = f"{url} answers with status {error.status}"
        raise InputOutputFailed(message) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        message = f"{url} does not answer: {why_silent(error)}"
        raise InputOutputFailed(message) from error
    except msgspec.DecodeError as error:
        message = f"{url} does not answer like an API node: {error}"
        raise InputOutputFailed(message) from error
