"""At the end of a load: does every API node count exactly what was acknowledged?

Each node is asked until it is right, for as long as its cache may be old; then once more a cache time later, when
nothing that it remembered can still help it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from common.errors import PeerAway
from common.slices import SliceId
from common.summaries import Summary
from tallyslice.load.reconcile import Counted, Difference, Model, counted, differences, touched_by_others
from tallyslice.load.table import differences_table
from tallyslice.load.traffic import READ, Traffic
from tallyslice.questions import Questions

ANSWER_SECONDS = 20.0  # for a node that does not answer yet: longer than a worker takes to restart
ASK_AGAIN_SECONDS = 0.25
CACHE_SLACK_SECONDS = 0.5  # for the question itself, on a busy machine
SLICES_SHOWN_MAX = 10
CACHE_TTL_SECONDS_MAX = 30.0  # nobody waits longer to see whether a cache agrees


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerdict:
    """What one API node counts, held against what was acknowledged.

    Attributes:
        node: its origin.
        differences: every number that is wrong.
        others: slices that somebody else fed.
        counted: the totals; None if the node gave no answer.
        problem: why it gave none.
    """

    node: str
    differences: tuple[Difference, ...] = ()
    others: tuple[SliceId, ...] = ()
    counted: Counted | None = None
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether every number is right."""
        return self.counted is not None and not self.differences


class Judgement:
    """Asks the nodes what they count, and compares.

    Args:
        questions: asks the nodes.
        model: what was acknowledged; final by now.
        before: what was counted before the first event.
        timer: seconds.
    """

    def __init__(
        self,
        *,
        questions: Questions,
        model: Model,
        before: Mapping[SliceId, Summary],
        timer: Callable[[], float],
    ) -> None:
        self._questions = questions
        self._model = model
        self._before = before
        self._timer = timer

    async def of(self, nodes: Sequence[str], *, cache_ttl_seconds: float) -> list[NodeVerdict]:
        """The verdict on each node: the second one where the first was good."""
        ttl_seconds = min(cache_ttl_seconds, CACHE_TTL_SECONDS_MAX) + CACHE_SLACK_SECONDS
        first = await self._round(nodes, patience_seconds=ttl_seconds)
        await asyncio.sleep(ttl_seconds)
        second = await self._round(nodes, patience_seconds=0)
        return [late if early.holds else early for early, late in zip(first, second, strict=True)]

    async def _round(self, nodes: Sequence[str], *, patience_seconds: float) -> list[NodeVerdict]:
        return await asyncio.gather(*(self._one(node, patience_seconds) for node in nodes))

    async def _one(self, node: str, patience_seconds: float) -> NodeVerdict:
        """Ask until the node is right, or has no more excuse."""
        started = self._timer()
        while True:
            verdict = await self._ask(node)
            allowed_seconds = ANSWER_SECONDS if verdict.problem else patience_seconds
            if verdict.holds or self._timer() - started >= allowed_seconds:
                return verdict
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _ask(self, node: str) -> NodeVerdict:
        try:
            after = await self._questions.all_slices(node)
        except PeerAway as error:
            return NodeVerdict(node=node, problem=str(error))
        return NodeVerdict(
            node=node,
            differences=differences(self._model, before=self._before, after=after),
            others=touched_by_others(self._model, before=self._before, after=after),
            counted=counted(self._model, before=self._before, after=after),
        )


def report(traffic: Traffic, verdicts: Sequence[NodeVerdict], console: Console) -> bool:
    """Say how it went, and whether the check held."""
    for sentence in _unsettled(traffic):
        console.print(sentence, style="yellow")
    if traffic.drawn and not traffic.acknowledged:
        console.print("No event was acknowledged: there is nothing to check.", style="bold red")
        return False
    if traffic.failed_reads and not traffic.latencies[READ].count:
        console.print("No read was answered.", style="bold red")
        return False
    for one in verdicts:
        if one.problem:
            console.print(f"{one.node} could not be checked: {one.problem}", style="bold red")
    wrong = [(one.node, difference) for one in verdicts for difference in one.differences]
    if wrong:
        console.print(differences_table(wrong))
        console.print("What somebody else posted into these slices meanwhile is among the differences.")
    if others := sorted({slice_id for one in verdicts for slice_id in one.others}):
        console.print(f"Somebody else fed {_listed(others)}: not checked.")
    held = all(one.holds for one in verdicts)
    console.print(_sentence(traffic.model, verdicts, held=held), style="bold green" if held else "bold red")
    return held


def _listed(slices: Sequence[SliceId]) -> str:
    shown = ", ".join(map(str, slices[:SLICES_SHOWN_MAX]))
    more = len(slices) - SLICES_SHOWN_MAX
    return f"slice{'s' * (len(slices) > 1)} {shown}{f' and {more} more' if more > 0 else ''}"


def _sentence(model: Model, verdicts: Sequence[NodeVerdict], *, held: bool) -> str:
    totals = next((one.counted for one in verdicts if one.counted is not None), Counted(events=0, users=0, slices=0))
    numbers = (
        f"{model.events:,} events acknowledged, {totals.events:,} counted,"
        f" {totals.users:,} users over {totals.slices:,} slices"
    )
    if not held:
        return f"{numbers}: NOT exact"
    return f"{numbers}: {'exact, but for those of unknown outcome' if model.events_unknown else 'exact'}"


def _unsettled(traffic: Traffic) -> list[str]:
    """What became of events that were not acknowledged."""
    found = []
    for reason, events in sorted(traffic.refused.items()):
        found.append(f"{events:,} events were refused ({reason}), so they are not counted.")
    if traffic.undelivered:
        found.append(
            f"{traffic.undelivered:,} events were given up before any node took them, so they are not counted."
        )
    if unknown := traffic.model.events_unknown:
        found.append(f"{unknown:,} events were never acknowledged but may be counted; the check allows for either.")
    for status, reads in sorted(traffic.failed_reads.items()):
        found.append(f"{reads:,} reads {f'were answered with status {status}' if status > 0 else 'got no answer'}.")
    return found
