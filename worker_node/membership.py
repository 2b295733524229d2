"""Which cluster this worker belongs to, and whether a caller means it.

A worker joins once, when an API node brings it the cluster's pins; from then on it answers for that cluster only. The
pins and the cluster id are on disk twice, in ``totals.mdb`` and in ``identity.json``: the second is written last.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from common.errors import ConfigRefused, Contradicts, RegistryBehind, WrongCluster, WrongWorker
from common.pins import PinsDiffer, merge_pins
from common.slices import Micros, SliceClock
from common.wire import Identity, Join, LostSlices, Outcome, Pins, Rebuild

if TYPE_CHECKING:
    from common.config import ClusterConfig
    from worker_node.identity import DataDirectory
    from worker_node.totals import Totals
    from worker_node.writer import Writer


class Membership:
    """What the worker is in its cluster."""

    def __init__(self, *, directory: DataDirectory, totals: Totals, writer: Writer) -> None:
        self._directory = directory
        self._totals = totals
        self._writer = writer
        self._joining = asyncio.Lock()

    async def begin(self) -> None:
        """Agree with what is on disk.

        Raises:
            ConfigRefused: the files in the data directory do not belong together.
        """
        pins, cluster = self._totals.pins, self._directory.cluster
        if pins is None and cluster is not None:
            raise ConfigRefused(
                [f"--data {self._directory.folder}: joined cluster {cluster}, but its totals.mdb did not"]
            )
        if pins is not None and cluster is None:
            # Stopped between the two files.
            await self._writer.run(partial(self._directory.join, pins.cluster))
        elif pins is not None and cluster != pins.cluster:
            text = f"joined cluster {cluster}, but its totals.mdb is of cluster {pins.cluster}"
            raise ConfigRefused([f"--data {self._directory.folder}: {text}"])

    @property
    def uuid(self) -> str:
        """The uuid of the data directory."""
        return self._directory.uuid

    @property
    def pins(self) -> Pins | None:
        """The cluster's constants; None until the worker has joined."""
        return self._totals.pins

    @property
    def clock(self) -> SliceClock | None:
        """The cluster's division of time; None until the worker has joined."""
        pins = self._totals.pins
        return None if pins is None else SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)

    def identity(self) -> Identity:
        """Who this worker is."""
        return Identity(
            id=self._directory.id,
            uuid=self._directory.uuid,
            cluster=self._directory.cluster,
            claims=self._totals.claims,
            pins=self._totals.pins,
        )

    def hosts_registry(self, config: ClusterConfig) -> bool:
        """Whether the registry is here: as pinned, or, before that, as the file has it."""
        pins = self._totals.pins
        return (config.registry if pins is None else pins.registry) == self._directory.id

    def refusal(self, cluster: str, worker: str) -> Outcome | None:
        """Why what is meant for this cluster and this data directory is not taken here; None if it is."""
        if self._directory.cluster != cluster:
            return Outcome.WRONG_CLUSTER
        return Outcome.WRONG_WORKER if self._directory.uuid != worker else None

    def require(self, cluster: str, worker: str) -> None:
        """Let only those through who mean this worker.

        Raises:
            WrongCluster: they mean another cluster, or this worker has joined none yet.
            WrongWorker: they mean another data directory.
        """
        outcome = self.refusal(cluster, worker)
        if outcome is Outcome.WRONG_CLUSTER:
            raise WrongCluster(self.explain(outcome))
        if outcome is Outcome.WRONG_WORKER:
            raise WrongWorker(self.explain(outcome))

    def explain(self, outcome: Outcome) -> str:
        """A refusal in words."""
        worker = self._directory.id
        if outcome is Outcome.WRONG_WORKER:
            return f"worker {worker} has the data directory {self._directory.uuid}"
        if self._directory.cluster is None:
            return f"worker {worker} has joined no cluster yet"
        return f"worker {worker} belongs to cluster {self._directory.cluster}"

    async def join(self, join: Join) -> Identity:
        """Join a cluster, or learn what it has pinned since; durable when this returns.

        Raises:
            WrongWorker: the caller means another worker, or the pins name another data directory for this one.
            WrongCluster: the worker has joined another cluster, or the constants are not those that it knows.
        """
        mine = self._directory
        if join.id != mine.id:
            raise WrongWorker(f"this is worker {mine.id}, not {join.id}")
        if {join.uuid, join.pins.workers.get(mine.id, mine.uuid)} != {mine.uuid}:
            raise WrongWorker(self.explain(Outcome.WRONG_WORKER))
        if self._totals.replaced < join.pins.replaced.get(mine.id, 0):
            raise WrongWorker(f"worker {mine.id} has not been told what was lost: run `registry replace-worker` again")
        # Two API nodes may come at the same time: the second must see what the first one left.
        async with self._joining:
            if mine.cluster is not None and mine.cluster != join.pins.cluster:
                raise WrongCluster(self.explain(Outcome.WRONG_CLUSTER))
            known = self._totals.pins
            pins = join.pins if known is None else _merged(known, join.pins)
            if pins != known:
                await self._writer.set_pins(pins)
            if mine.cluster is None:
                await self._writer.run(partial(mine.join, pins.cluster))
        return self.identity()

    async def lose(self, lost: LostSlices) -> Identity:
        """Learn which slices the data directory before this one held; durable when this returns.

        Raises:
            WrongWorker: the caller means another worker, or another data directory.
            Contradicts: this directory is in use, so that what it holds would pass for all there is.
        """
        mine = self._directory
        if (lost.id, lost.uuid) != (mine.id, mine.uuid):
            raise WrongWorker(self.explain(Outcome.WRONG_WORKER))
        async with self._joining:
            if mine.cluster is not None:
                raise Contradicts(
                    f"the data directory {mine.uuid} of worker {mine.id} is in use already, and replaces none"
                )
            await self._writer.lose(lost.routes, replaced=0 if lost.more else lost.number)
        return self.identity()

    def check_rebuild(self, rebuild: Rebuild) -> None:
        """Whether the registry may be rebuilt here.

        Raises:
            WrongWorker: the caller means another data directory, or the registry is elsewhere.
            WrongCluster: this worker belongs to another cluster.
            RegistryBehind: this worker has heard of more claims than the registry would have.
        """
        mine = self._directory
        if rebuild.host != mine.uuid or rebuild.pins.registry != mine.id:
            raise WrongWorker(self.explain(Outcome.WRONG_WORKER))
        if mine.cluster not in (None, rebuild.pins.cluster):
            raise WrongCluster(self.explain(Outcome.WRONG_CLUSTER))
        if rebuild.claims <= self._totals.claims:
            raise RegistryBehind(f"{self._totals.claims} claims are known: the registry cannot have {rebuild.claims}")

    def check_first_pins(self, pins: Pins) -> None:
        """Whether an empty registry at this worker may be given these pins.

        Raises:
            WrongWorker: they have the registry, or this worker's data, elsewhere.
            RegistryBehind: this worker has joined a cluster already, so a registry without pins is not the real one.
        """
        mine = self._directory
        if pins.registry != mine.id or pins.workers.get(mine.id, mine.uuid) != mine.uuid:
            raise WrongWorker(self.explain(Outcome.WRONG_WORKER))
        if mine.cluster is not None:
            raise RegistryBehind(
                f"worker {mine.id} has joined cluster {mine.cluster}, and its registry is empty: rebuild it"
            )

    def check_registry(self, pins: Pins | None) -> None:
        """Whether a registry found in the data directory is this cluster's.

        Raises:
            Contradicts: it is another cluster's.
        """
        mine = self._directory.cluster
        if pins is not None and mine is not None and pins.cluster != mine:
            raise Contradicts(f"the registry here is that of cluster {pins.cluster}, not of {mine}")


def _merged(known: Pins, brought: Pins) -> Pins:
    """The pins with what was pinned since."""
    try:
        return merge_pins(known, brought)
    except PinsDiffer as error:
        raise WrongCluster(f"these are not the constants that this worker has joined with: {error}") from error
