"""What is known of a load while it runs, asked of the cluster every second, and shown on a terminal or as lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from rich.console import Console
from rich.live import Live

from common.errors import PeerAway
from common.routing import Route
from common.slices import Micros, SliceClock, SliceId
from common.summaries import Summary
from tallyslice.load import table
from tallyslice.load.generator import Generator
from tallyslice.load.table import View
from tallyslice.questions import Questions

ASK_SECONDS = 1.0
FRAME_SECONDS = 0.25  # of the bar and the counters, which cost no question
LINE_SECONDS = 5.0  # between lines where nobody watches live


class Board:
    """The newest answers of the cluster beside the generator's own counters.

    Args:
        generator: what is shown.
        questions: asks the nodes.
        nodes: origins of the API nodes, asked in turn.
        clock: how the cluster divides time.
        before: what was counted before the first event.
        now: the time of day.
        timer: seconds, for rates.

    Attributes:
        phase: what is being done, in a word.
    """

    def __init__(
        self,
        *,
        generator: Generator,
        questions: Questions,
        nodes: Sequence[str],
        clock: SliceClock,
        before: Mapping[SliceId, Summary],
        seconds: float,
        now: Callable[[], Micros],
        timer: Callable[[], float],
    ) -> None:
        self.phase = "feeding"
        self._generator = generator
        self._questions = questions
        self._nodes = nodes
        self._clock = clock
        self._seconds = seconds
        self._now = now
        self._timer = timer
        self._started = self._asked = self._measured = timer()
        self._summaries, self._routes = before, dict[SliceId, Route]()
        self._acknowledged, self._rate = 0, 0.0
        self._rows = self._rows_since(before, 0)
        self._problem: str | None = None

    async def keep_asking(self) -> None:
        """Ask one node after the other, for ever."""
        for turn in count():
            await self.ask(self._nodes[turn % len(self._nodes)])
            await asyncio.sleep(ASK_SECONDS)

    async def ask(self, node: str) -> None:
        """Take over what the node knows; if it does not answer, keep what was known and say so."""
        self._measure()
        try:
            summaries = await self._questions.all_slices(node)
            view = await self._questions.cluster(node)
        except PeerAway as error:
            self._problem = f"the numbers are not fresh: {error}"
            return
        earlier, self._summaries = self._summaries, summaries
        # Kept: a node tells the recent routes only, and a settled route never changes.
        self._routes |= view.routes
        at = self._timer()
        passed, self._asked = at - self._asked, at
        self._rows = self._rows_since(earlier, passed)
        self._problem = None

    def view(self) -> View:
        """How it looks now."""
        made = self._generator
        return View(
            phase=self.phase,
            rows=self._rows,
            elapsed_seconds=self._timer() - self._started,
            seconds=self._seconds,
            drawn=made.drawn,
            acknowledged=made.acknowledged,
            retried=made.retried,
            refused=made.traffic.refused.total(),
            waiting=made.traffic.waiting,
            behind=made.behind,
            rate=self._rate,
            latencies=made.traffic.latencies,
            problem=self._problem,
        )

    def _measure(self) -> None:
        at, acknowledged = self._timer(), self._generator.acknowledged
        passed = at - self._measured
        self._rate = (acknowledged - self._acknowledged) / passed if passed > 0 else 0
        self._measured, self._acknowledged = at, acknowledged

    def _rows_since(self, earlier: Mapping[SliceId, Summary], seconds: float) -> list[table.SliceRow]:
        return table.rows(
            summaries=self._summaries,
            routes=self._routes,
            clock=self._clock,
            current=self._clock.slice_at(self._now()),
            earlier=earlier,
            seconds=seconds,
        )


async def show(board: Board, console: Console) -> None:
    """Show the board until cancelled: live on a terminal, else a line now and then."""
    if not console.is_interactive:
        while True:
            console.print(table.line(board.view()), soft_wrap=True)
            await asyncio.sleep(LINE_SECONDS)
    # No refreshing thread: the loop draws, so nothing is drawn in the middle of a change.
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(table.live_table(board.view(), height=console.height), refresh=True)
                await asyncio.sleep(FRAME_SECONDS)
        finally:
            live.update(table.live_table(board.view(), height=console.height))
