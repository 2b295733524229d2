"""A simulated worker: its disk, and the process that runs the product's parts on it."""

from __future__ import annotations

from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Batch, Claim, Envelope, Held, Outcome, Pins, Receipt, Reply, Settled, decode_envelope, encode
from tests.simulation.faults import Faults
from tests.simulation.parts import Parts
from tests.simulation.stores import InlineWriter
from worker_node.holdings import Holdings
from worker_node.receiver import NumberedBatch, address
from worker_node.registry import Door, Registry
from worker_node.totals import Totals

DOOR = Door(slices_max=1_000_000)


class Machine:
    """One worker. What it does with bytes is what ``worker_node/handlers.py`` does."""

    def __init__(self, *, worker: WorkerId, pins: Pins, parts: Parts, faults: Faults, open_files_max: int) -> None:
        self.worker = worker
        self.pins = pins
        self.uuid = pins.workers[worker]
        self.disk = parts.disk(faults)
        self.faults = faults
        self.is_up = False
        self.refusing: set[SliceId] = set()  # no space for these
        self.hosts_registry = pins.registry == worker
        self._parts = parts
        self._open_files_max = open_files_max
        self._writer: InlineWriter | None = None
        self._totals: Totals | None = None
        self._registry: Registry | None = None

    def join(self) -> None:
        """The first start: the worker joins the cluster, and its registry is given the pins."""
        self.start()
        self.totals.set_pins(self.pins)
        if self.hosts_registry:
            self.registry.pin(self.pins)

    def start(self) -> None:
        """The process starts."""
        self.faults.spare()
        self._totals = self._parts.totals(disk=self.disk)
        shelf = self._parts.shelf(
            disk=self.disk,
            open_files_max=self._open_files_max,
            make_store=self._parts.store,
            recent=self._parts.recent(),
            merging=self._parts.merging,
        )
        self._writer = self._parts.writer(shelf=shelf, totals=self._totals, holdings=Holdings())
        self._writer.begin()
        if self.hosts_registry:
            self._registry = self._parts.registry(disk=self.disk)
            self._registry.open()
        self.is_up = True

    def stop(self) -> None:
        """The process ends, or dies: its disk stays."""
        self.faults.spare()
        if self.is_up:
            self.is_up = False
            self.writer.end()
            if self._registry is not None:
                self._registry.close()
            self._writer = self._totals = self._registry = None

    @property
    def writer(self) -> InlineWriter:
        """Of the running process."""
        assert self._writer is not None, f"worker {self.worker} is down"
        return self._writer

    @property
    def totals(self) -> Totals:
        """Of the running process."""
        assert self._totals is not None, f"worker {self.worker} is down"
        return self._totals

    @property
    def registry(self) -> Registry:
        """Of the running process."""
        assert self._registry is not None, f"worker {self.worker} has no registry"
        return self._registry

    def receive(self, bodies: list[bytes]) -> list[bytes]:
        """Take envelopes that arrive together, as one group; the reply to each.

        Raises:
            Killed: the process died while it wrote.
        """
        envelopes = [decode_envelope(body) for body in bodies]
        addressed = [
            [self._address(envelope, batch, raw) for batch, raw in zip(batches, envelope.batches, strict=True)]
            for envelope, batches in envelopes
        ]
        group = [
            ([one for one in all_of_it if isinstance(one, NumberedBatch)], envelope.claims)
            for (envelope, _), all_of_it in zip(envelopes, addressed, strict=True)
        ]
        taken = self.writer.receive_group(group)
        replies = []
        for all_of_it, receipts in zip(addressed, taken, strict=True):
            left = iter(receipts)
            merged = tuple(next(left) if isinstance(one, NumberedBatch) else one for one in all_of_it)
            replies.append(encode(Reply(worker=self.uuid, claims=self.totals.claims, receipts=merged)))
        return replies

    def claim(self, claim: Claim) -> Settled:
        """Settle routes; see Registry.claim."""
        settled = self.registry.claim(claim, known=self.totals.claims, door=DOOR)
        self.writer.note_claims_now(settled.claims)
        return settled

    def held(self, slice_id: SliceId) -> Held | None:
        """What the worker answers to a question about a slice."""
        return self.writer.look_now(slice_id)

    def all_held(self) -> dict[SliceId, Held]:
        """Everything that the worker knows of any slice."""
        found = {slice_id: self.writer.look_now(slice_id) for slice_id in self.writer.slices()}
        return {slice_id: held for slice_id, held in found.items() if held is not None}

    def _address(self, envelope: Envelope, batch: Batch, raw: bytes) -> NumberedBatch | Receipt:
        slice_id, seq = batch.slice, batch.seq
        if envelope.worker != self.uuid:
            return Receipt(slice=slice_id, seq=seq, outcome=Outcome.WRONG_WORKER)
        if slice_id in self.refusing:
            return Receipt(slice=slice_id, seq=seq, outcome=Outcome.NO_SPACE)
        found = address(self.worker, envelope, batch, raw)
        if isinstance(found, NumberedBatch):
            return found
        return Receipt(slice=slice_id, seq=seq, outcome=found.outcome, detail=found.detail)
