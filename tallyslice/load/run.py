"""One load from beginning to end, and whether the cluster counted exactly it.

::

    what is counted before -> send, while showing -> every event answered -> what each API node counts after
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from rich.console import Console

from common.errors import InputOutputFailed, PeerAway
from common.slices import Micros, SliceClock
from tallyslice.interrupts import Interrupts
from tallyslice.load.board import Board, show
from tallyslice.load.generator import Generator
from tallyslice.load.order import Order
from tallyslice.load.table import latencies_table
from tallyslice.load.verdict import Judgement, NodeVerdict, report
from tallyslice.questions import Questions
from tallyslice.target import token_headers

BEFORE_SECONDS = 20.0  # for the first answers: longer than a worker takes to restart
ASK_AGAIN_SECONDS = 0.25
TAG_BYTES = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a load.

    Attributes:
        generator: what was sent, and what was answered.
        verdicts: what each node counts, held against that.
        held: whether all that was acknowledged is counted, and nothing else.
    """

    generator: Generator
    verdicts: Sequence[NodeVerdict]
    held: bool

    def plain(self) -> dict[str, Any]:
        """As JSON; latencies in milliseconds."""
        made, traffic = self.generator, self.generator.traffic
        return {
            "exact": self.held,
            "seconds": made.seconds,
            "events": {
                "acknowledged": traffic.acknowledged,
                "unknown": traffic.model.events_unknown,
                "undelivered": traffic.undelivered,
                "refused": dict(traffic.refused),
            },
            "events_per_second": traffic.acknowledged / made.seconds if made.seconds else 0.0,
            "requests": {
                kind: {
                    "answered": latency.count,
                    "per_second": latency.count / made.seconds if made.seconds else 0.0,
                    "milliseconds": latency.milliseconds(),
                }
                for kind, latency in traffic.latencies.items()
            },
            "failed_reads": traffic.failed_reads.total(),
            "sent_again": made.retried,
            "never_sent": made.behind,
            "differences": [
                {
                    "node": one.node,
                    "slice": wrong.slice,
                    "what": wrong.what,
                    "least": wrong.least,
                    "most": wrong.most,
                    "counted": wrong.counted,
                }
                for one in self.verdicts
                for wrong in one.differences
            ],
            "problems": [f"{one.node}: {one.problem}" for one in self.verdicts if one.problem],
        }


async def load_and_check(order: Order, *, console: Console, interrupts: Interrupts) -> Result:
    """Send, show, and find out whether all that was acknowledged is counted, and nothing else.

    Raises:
        InputOutputFailed: no API node answers, so there is nothing to begin with.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=order.tls or True)) as session:
        questions = Questions(session=session, headers=token_headers(order.token))
        clock = await _first_answer(order.nodes, lambda node: _clock(questions, node))
        before = await _first_answer(order.nodes, questions.all_slices)
        generator = Generator(order, tag=secrets.token_hex(TAG_BYTES), clock=clock, now=now)
        board = Board(
            generator=generator,
            questions=questions,
            nodes=order.nodes,
            clock=clock,
            before=before,
            seconds=order.seconds,
            now=now,
            timer=time.monotonic,
        )
        judgement = Judgement(questions=questions, model=generator.traffic.model, before=before, timer=time.monotonic)
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(work)
                for work in (board.keep_asking(), show(board, console), _obey(interrupts, generator, console))
            ]
            await generator.run()
            board.phase = "checking"
            verdicts = await judgement.of(order.nodes, cache_ttl_seconds=order.cache_ttl_seconds)
            await board.ask(order.nodes[0])
            for task in beside:
                task.cancel()
        if generator.behind:
            console.print(
                f"{generator.behind:,} requests were due and never sent: the cluster did not keep up.", style="yellow"
            )
        console.print(latencies_table(generator.traffic.latencies, generator.seconds))
        return Result(generator=generator, verdicts=verdicts, held=report(generator.traffic, verdicts, console))


async def _obey(interrupts: Interrupts, generator: Generator, console: Console) -> None:
    await interrupts.finish.wait()
    generator.stop()
    console.print("Feeding ends here; what was fed is checked. Ctrl-C again gives up on events without an answer.")
    await interrupts.hurry.wait()
    generator.give_up()


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
