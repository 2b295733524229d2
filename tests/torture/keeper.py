"""Keeps the nodes of a cluster running while somebody kills them: sees each death, and starts the node again."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import Cluster, Node
from tests.support.patience import POLL_SECONDS
from tests.torture.points import OF_API_NODES, OF_THE_REGISTRY, OF_WORKERS, Point

KILLED = -9
READY_SECONDS = 30.0
RANDOM = "random moment"
STARTING = "while starting"
DOWN_LONG_SECONDS = (3.2, 4.5)  # beyond the three seconds after which a worker is away
NTH_MAX = 40  # groups: within a second or two under load
NTH_CLAIM_MAX = 3
NTH_SPOOL_MAX = 4

_ROOT = Path(__file__).parents[2]  # where ``tests`` can be imported from

# The kernel ends the nodes when the run dies without a chance to.
_LEASH = [found, "--pdeathsig", "KILL"] if (found := shutil.which("setpriv")) else []


@dataclass(frozen=True, slots=True)
class Plan:
    """At which point a node is to kill itself, and at which pass."""

    point: Point
    nth: int


@dataclass(slots=True)
class Whole:
    """For how long all nodes were up, and how many events were acknowledged meanwhile."""

    seconds: float = 0.0
    acknowledged: int = 0

    @property
    def rate(self) -> float:
        """Acknowledged events a second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0


@dataclass(eq=False, slots=True)
class _Kept:
    node: Node
    up: bool = True
    cause: str = ""  # why it is about to die, if it was us
    plan: Plan | None = None


class Keepers:
    """An async context manager around a running cluster.

    Attributes:
        deaths: how often each node was killed, and how: ``worker-0 in-commit``.
        crashes: nodes that ended by themselves: there must be none.
        whole: the time without any fault.
    """

    def __init__(self, cluster: Cluster, *, rng: random.Random, wrong: str | None = None) -> None:
        self.deaths = Counter[str]()
        self.crashes: list[str] = []
        self.whole = Whole()
        self.planning = True
        self._cluster = cluster
        self._rng = rng
        self._wrong = wrong
        self._kept = {node.name: _Kept(node) for node in cluster.nodes}
        self._tasks: list[asyncio.Task[None]] = []
        self._whole_since: float | None = None
        self._resting = False

    async def __aenter__(self) -> Self:
        self._note()
        self._tasks = [asyncio.create_task(self._keep(kept)) for kept in self._kept.values()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._leave_whole()
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                self.crashes.append(repr(result))

    @property
    def is_whole(self) -> bool:
        """Whether every node is up."""
        return all(kept.up for kept in self._kept.values())

    def acknowledged(self) -> None:
        """Some event was, just now."""
        if self._whole_since is not None:
            self.whole.acknowledged += 1

    async def until_whole(self, *, seconds: float = READY_SECONDS) -> None:
        """Wait until every node is up."""
        deadline = time.monotonic() + seconds
        while not self.is_whole:
            self._check()
            assert time.monotonic() < deadline, [name for name, kept in self._kept.items() if not kept.up]
            await asyncio.sleep(POLL_SECONDS)

    def kill_one(self) -> None:
        """SIGKILL for any of the running nodes, ready or not."""
        running = [kept for kept in self._kept.values() if kept.node.runs]
        if running:
            self._kill(self._rng.choice(running))

    def rest(self) -> None:
        """The load is over: what follows does not belong to the whole time."""
        self._resting = True
        self._leave_whole()

    async def disarm(self) -> None:
        """Let no more node kill itself: the ones that still would are killed and started again."""
        self.planning = False
        while armed := [kept for kept in self._kept.values() if kept.plan is not None]:
            for kept in armed:
                if kept.node.runs:
                    self._kill(kept)
            await asyncio.sleep(POLL_SECONDS)
        await self.until_whole()

    def _kill(self, kept: _Kept) -> None:
        kept.cause = RANDOM if kept.up else STARTING
        kept.node.kill()

    def _check(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def _keep(self, kept: _Kept) -> None:
        """See to one node: a task's body."""
        while True:
            await self._until_dead(kept)
            kept.up = False
            self._leave_whole()
            self._note_death(kept)
            await asyncio.sleep(self._pause(kept.node))
            kept.plan = self._draw_plan(kept.node)
            self._launch(kept)
            begun = time.monotonic()
            while kept.node.runs and (await self._cluster.readiness(kept.node))[0] != 200:
                assert time.monotonic() < begun + READY_SECONDS, f"{kept.node.name} is not ready"
                await asyncio.sleep(POLL_SECONDS)
            kept.up = kept.node.runs
            self._note()

    async def _until_dead(self, kept: _Kept) -> None:
        while kept.node.runs:
            await asyncio.sleep(POLL_SECONDS)

    def _note_death(self, kept: _Kept) -> None:
        node = kept.node
        assert node.process is not None
        code = node.process.returncode
        cause, kept.cause = kept.cause or (kept.plan.point.value if kept.plan else ""), ""
        kept.plan = None
        if code != KILLED or not cause:
            self.crashes.append(f"{node.name} ended with {code}")
        else:
            self.deaths[f"{node.name} {cause}"] += 1

    def _pause(self, node: Node) -> float:
        draw = self._rng.random()
        waits_for_spool = any(kept.plan is not None and kept.node.kind == "api" for kept in self._kept.values())
        if node.kind == "worker" and waits_for_spool and draw < 0.35:
            return self._rng.uniform(*DOWN_LONG_SECONDS)
        if draw < 0.7:
            return 0.0
        return self._rng.random() if draw < 0.92 else self._rng.uniform(*DOWN_LONG_SECONDS)

    def _draw_plan(self, node: Node) -> Plan | None:
        if not self.planning or self._wrong or self._rng.random() < 0.3:
            return None
        if node.kind == "api":
            return Plan(self._rng.choice(OF_API_NODES), self._rng.randint(1, NTH_SPOOL_MAX))
        if node.id == "0" and self._rng.random() < 0.25:
            return Plan(self._rng.choice(OF_THE_REGISTRY), self._rng.randint(1, NTH_CLAIM_MAX))
        point = self._rng.choice(OF_WORKERS)
        return Plan(point, self._rng.randint(1, NTH_CLAIM_MAX if point is Point.FILE_MADE else NTH_MAX))

    def _launch(self, kept: _Kept) -> None:
        node = kept.node
        if kept.plan is not None:
            launch(
                node, f"tests.torture.{node.kind}_with_points", "--point", kept.plan.point, "--nth", str(kept.plan.nth)
            )
        elif self._wrong and node.kind == "worker":
            launch(node, "tests.torture.worker_with_points", "--wrong", self._wrong)
        else:
            launch(node, f"{node.kind}_node")

    def _note(self) -> None:
        if self.is_whole and self._whole_since is None and not self._resting:
            self._whole_since = time.monotonic()

    def _leave_whole(self) -> None:
        if self._whole_since is not None:
            self.whole.seconds += time.monotonic() - self._whole_since
            self._whole_since = None


def launch(node: Node, module: str, *options: str) -> None:
    """Start a node's process from another module than its own."""
    command = [sys.executable, "-m", module, node.id, str(node.file), "--data", str(node.data), *options]
    with node.log.open("ab") as log:
        node.process = subprocess.Popen(
            [*_LEASH, *command], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
