"""``tallyslice feed URL...``: feed a running cluster with random users, and check that it counted exactly them.

::

    what is counted before -> feed, while showing -> every event answered -> what each API node counts after
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import click
import uvloop
from rich.console import Console

from common.errors import InputOutputFailed, PeerAway
from common.slices import Micros, SliceClock
from tallyslice.board import Board, show
from tallyslice.crowd import Crowd
from tallyslice.feeder import Feeder
from tallyslice.interrupts import Interrupts
from tallyslice.questions import Questions, origin
from tallyslice.screen import new_console
from tallyslice.verdict import Judgement, report

SECONDS, RATE = 300.0, 200.0  # five minutes fill five slices of etc/cluster.json
RATE_MAX, SECONDS_MAX = 100_000.0, 1_000_000.0  # beyond what one process sends, and what anybody waits for
BEFORE_SECONDS = 20.0  # for the first answers: longer than a worker takes to restart
ASK_AGAIN_SECONDS = 0.25
TAG_BYTES = 4

T = TypeVar("T")

seconds_option = click.option(
    "--seconds",
    metavar="N",
    type=click.FloatRange(0, SECONDS_MAX, min_open=True),
    help=f"How long to feed.  [default: {SECONDS:g}]",
)
rate_option = click.option(
    "--rate",
    metavar="N",
    type=click.FloatRange(0, RATE_MAX, min_open=True),
    help=f"Events a second, in all.  [default: {RATE:g}]",
)
seed_option = click.option("--seed", metavar="N", type=int, help="Let the same users do the same things in each run.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOrder:
    """What to feed.

    Attributes:
        nodes: origins of the API nodes, fed in turn.
        rate: events a second, in all.
        seconds: how long.
        seed: for the same events in each run; None: random.
        cache_ttl_seconds: how old an answer may be.
    """

    nodes: tuple[str, ...]
    rate: float = RATE
    seconds: float = SECONDS
    seed: int | None = None
    cache_ttl_seconds: float


@click.command
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@seconds_option
@rate_option
@seed_option
@click.option(
    "--cache-ttl",
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0),
    help="The cluster's cache-ttl-seconds.",
)
def feed(urls: tuple[str, ...], seconds: float | None, rate: float | None, seed: int | None, cache_ttl: float) -> int:
    """Feed a running cluster through the API nodes at URL... with random users, and check that all is counted.

    Clicks and impressions of a thousand users, a tenth of them up to two minutes late, each event with an id and sent
    again until it is acknowledged. At the end, every API node's counts must have grown by exactly what was
    acknowledged, slice by slice; so the check only makes sense for slices that nobody else feeds meanwhile.

    Exit status 0 if the check held, 1 if not. Ctrl-C ends the feeding early, and checks what was fed.
    """
    order = FeedOrder(
        nodes=tuple(map(_origin, urls)),
        rate=rate or RATE,
        seconds=seconds or SECONDS,
        seed=seed,
        cache_ttl_seconds=cache_ttl,
    )
    return 0 if uvloop.run(_feed_only(order, new_console())) else 1


def _origin(url: str) -> str:
    try:
        return origin(url)
    except ValueError as error:
        raise click.BadParameter(f"{url}: {error}", param_hint="URL") from error


async def _feed_only(order: FeedOrder, console: Console) -> bool:
    with Interrupts() as interrupts:
        return await feed_and_check(order, console=console, interrupts=interrupts)


async def feed_and_check(order: FeedOrder, *, console: Console, interrupts: Interrupts) -> bool:
    """Feed, show, and say whether all that was acknowledged is counted, and nothing else.

    Raises:
        InputOutputFailed: no API node answers, so there is nothing to begin with.
    """
    # The feeder bounds its connections itself, by its senders.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        questions = Questions(session=session)
        clock = await _first_answer(order.nodes, lambda node: _clock(questions, node))
        before = await _first_answer(order.nodes, questions.all_slices)
        feeder = Feeder(
            session=session,
            nodes=order.nodes,
            crowd=Crowd(tag=secrets.token_hex(TAG_BYTES), seed=order.seed),
            clock=clock,
            rate=order.rate,
            seconds=order.seconds,
            now=now,
        )
        board = Board(
            feeder=feeder,
            questions=questions,
            nodes=order.nodes,
            clock=clock,
            before=before,
            seconds=order.seconds,
            now=now,
            timer=time.monotonic,
        )
        judgement = Judgement(questions=questions, model=feeder.model, before=before, timer=time.monotonic)
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(work)
                for work in (board.keep_asking(), show(board, console), _obey(interrupts, feeder, console))
            ]
            await feeder.run()
            board.phase = "checking"
            verdicts = await judgement.of(order.nodes, cache_ttl_seconds=order.cache_ttl_seconds)
            await board.ask(order.nodes[0])
            for task in beside:
                task.cancel()
        return report(feeder, verdicts, console)


async def _obey(interrupts: Interrupts, feeder: Feeder, console: Console) -> None:
    await interrupts.finish.wait()
    feeder.stop()
    console.print("Feeding ends here; what was fed is checked. Ctrl-C again gives up on events without an answer.")
    await interrupts.hurry.wait()
    feeder.give_up()


async def _clock(questions: Questions, node: str) -> SliceClock:
    clock = (await questions.cluster(node)).clock
    if clock is None:
        raise PeerAway(f"{node} has not met its cluster yet")
    return clock


async def _first_answer(nodes: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> T:
    """The answer of the first node that has one."""
    deadline = time.monotonic() + BEFORE_SECONDS
    while True:
        for node in nodes:
            try:
                return await ask(node)
            except PeerAway as error:
                if time.monotonic() > deadline:
                    raise InputOutputFailed(str(error)) from error
        await asyncio.sleep(ASK_AGAIN_SECONDS)


def now() -> Micros:
    """The time of day."""
    return Micros(time.time_ns() // 1_000)
