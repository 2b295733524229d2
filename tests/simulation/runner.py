"""Many histories, on several cores, with what they did: so that a run can be judged, and an idle one cannot pass."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice

from tests.simulation.history import Outcome, run
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.plans import FAULTS

PIECE = 100  # histories: a third of a second or so
# Of an average history; below it the histories did not do what they are for.
ACKNOWLEDGED_FLOOR = 10.0
BROKEN_SHOWN_MAX = 20


@dataclass(slots=True)
class Report:
    """What some histories came to.

    Attributes:
        broken: those that broke the promise, by seed.
        faults: how many knew each fault.
        answers: how many receipts of each kind the nodes got.
    """

    histories: int = 0
    steps: int = 0
    acknowledged: int = 0
    seconds: float = 0.0
    broken: list[Outcome] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Take over what others came to."""
        self.histories += other.histories
        self.steps += other.steps
        self.acknowledged += other.acknowledged
        self.seconds += other.seconds
        self.broken = sorted([*self.broken, *other.broken], key=lambda one: one.seed)
        self.faults.update(other.faults)
        self.answers.update(other.answers)

    def void(self) -> str | None:
        """Why the run proves nothing; None if it may."""
        if self.acknowledged < ACKNOWLEDGED_FLOOR * self.histories:
            few = f"{self.acknowledged} events acknowledged in {self.histories} histories"
            return f"{few}: less than {ACKNOWLEDGED_FLOOR:g} each"
        idle = sorted(FAULTS.keys() - self.faults.keys())
        if self.histories >= PIECE and idle:
            return f"no history knew {', '.join(idle)}"
        return None

    def text(self) -> str:
        """For people."""
        answers = ", ".join(f"{number} {name}" for name, number in self.answers.most_common())
        done = f"{self.histories} histories, {self.steps} steps, {self.acknowledged} events acknowledged"
        rate = f"{self.histories / max(self.seconds, 1e-9):.0f} histories a second and core"
        lines = [
            f"{done}, {len(self.broken)} broken, {rate}",
            f"receipts: {answers}",
            *(f"seed {one.seed} ({', '.join(one.faults)}): {one.broken}" for one in self.broken[:BROKEN_SHOWN_MAX]),
        ]
        return "\n".join(lines)


def run_piece(first: int, histories: int, planted: str | None) -> Report:
    """Histories of consecutive seeds, one after the other."""
    parts, report, started = parts_of(planted), Report(), time.process_time()
    # What a history leaves behind are cycles; collected once a piece, they cost a fifth less.
    gc.disable()
    for seed in range(first, first + histories):
        outcome = run(seed, parts=parts)
        report.histories += 1
        report.steps += outcome.steps
        report.acknowledged += outcome.acknowledged
        report.faults.update(outcome.faults)
        report.answers.update(outcome.answers)
        if outcome.broken is not None:
            report.broken.append(outcome)
    gc.enable()
    gc.collect()
    report.seconds = time.process_time() - started
    return report


def run_many(
    histories: int, *, seed: int, jobs: int, planted: str | None = None, tell: Callable[[Report], bool] = lambda _: True
) -> Report:
    """Histories of the seeds from ``seed`` on.

    Args:
        histories: how many.
        seed: of the first one; the others follow, so that a run may go on where another stopped.
        jobs: processes.
        planted: the name of a module in ``planted`` whose parts are swapped in.
        tell: called with what there is so far, in the order of the seeds; the run ends when it says False.
    """
    report = Report()
    pieces = ((at, min(PIECE, seed + histories - at)) for at in range(seed, seed + histories, PIECE))
    # Spawned: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) if jobs > 1 else nullcontext() as pool:
        for done in _in_order(pool, pieces, jobs, planted):
            report.add(done)
            if not tell(report):
                break
    return report


def _in_order(
    pool: ProcessPoolExecutor | None, pieces: Iterator[tuple[int, int]], jobs: int, planted: str | None
) -> Iterator[Report]:
    if pool is None:
        yield from (run_piece(*piece, planted) for piece in pieces)
        return
    waiting: list[Future[Report]] = [pool.submit(run_piece, *piece, planted) for piece in islice(pieces, 2 * jobs)]
    try:
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(run_piece, *piece, planted) for piece in islice(pieces, 1)]
    finally:
        for one in waiting:
            one.cancel()


def parts_of(planted: str | None) -> Parts:
    """The product's parts, or those with a planted bug."""
    if planted is None:
        return SHIPPED
    found: Parts = import_module(f"tests.simulation.planted.{planted}").PARTS
    return found
