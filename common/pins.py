"""What two nodes of one cluster know of its constants, put together.

Almost all of it never changes. What may be added: a worker that came later; the new data directory of a worker whose
disk was lost, with the claim number of that replacement, so that of two directories the later one counts; and, if the
registry was ever rebuilt without somebody, the instant before which not everything is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from common.errors import TallysliceError

if TYPE_CHECKING:
    from common.routing import WorkerId
    from common.wire import Pins


class PinsDiffer(TallysliceError):
    """These are not the constants of one cluster."""


def merge_pins(known: Pins, brought: Pins) -> Pins:
    """The newest of both.

    Raises:
        PinsDiffer: they contradict each other.
    """
    for name in ("cluster", "first", "length_seconds", "secret_id", "registry"):
        if getattr(known, name) != getattr(brought, name):
            raise PinsDiffer(f"{name} is {getattr(known, name)} and {getattr(brought, name)}")
    workers: dict[WorkerId, str] = {}
    replaced: dict[WorkerId, int] = {}
    for worker in sorted({*known.workers, *brought.workers}):
        uuid, number = max(_directory(known, worker), _directory(brought, worker), key=lambda it: (it[0] != "", it[1]))
        for pins in (known, brought):
            if _directory(pins, worker)[0] not in ("", uuid) and _directory(pins, worker)[1] == number:
                raise PinsDiffer(f"worker {worker} has the data directories {uuid} and {_directory(pins, worker)[0]}")
        workers[worker] = uuid
        if number:
            replaced[worker] = number
    instants = [pins.unknown_before for pins in (known, brought) if pins.unknown_before is not None]
    return msgspec.structs.replace(
        known, workers=workers, replaced=replaced, unknown_before=max(instants, default=None)
    )


def _directory(pins: Pins, worker: WorkerId) -> tuple[str, int]:
    """The uuid of the worker's data directory, empty if it is not pinned, and when it was put in place."""
    return pins.workers.get(worker, ""), pins.replaced.get(worker, 0)
