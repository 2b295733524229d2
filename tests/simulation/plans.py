"""What a history is drawn from: its size, the faults it may know, and the cluster files of its cluster.

Three workers, and several minds about who holds what.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.routing import WorkerId
from tests.support.configs import cluster_config, pins_of, workers

WORKERS = (WorkerId("0"), WorkerId("1"), WorkerId("2"))
SECRET = bytes(range(32))
# By a clock of its own: a history is over long before. The simulation makes nodes forget in its own time.
_CACHE_SECONDS = 3600

_ROUTINGS: tuple[tuple[list[dict[str, object]], tuple[str, ...]], ...] = (
    (
        [{"slice": 0, "nodes": ["0"]}, {"slice": 1, "nodes": ["0", "1"]}, {"slice": 3, "nodes": ["0", "1", "2"]}],
        WORKERS,
    ),
    ([{"slice": 0, "nodes": ["1", "2"]}], WORKERS),
    ([{"slice": 0, "nodes": ["2"]}, {"slice": 2, "nodes": ["1", "0"]}], WORKERS),
    ([{"slice": 0, "nodes": ["2", "0", "1"]}], WORKERS),
    ([{"slice": 0, "nodes": ["1", "0"]}, {"slice": 4, "nodes": ["1"]}], ("0", "1")),
)
CONFIGS = tuple(
    cluster_config(worker_nodes=workers(*listed), routing=routing, registry="0", cache_ttl_seconds=_CACHE_SECONDS)
    for routing, listed in _ROUTINGS
)
WHOLE = CONFIGS[0]
PINS = pins_of(WHOLE)

# Each with the share of the histories that know it. One combination is left out, because it is not solved: the file of
# the registry *and* the totals.mdb beside it go back in time together, and an API node that has not heard of the newest
# claims asks for a route before those who have. Then a slice is settled twice; ``registry rebuild`` would report it.
FAULTS = {
    "time-outs": 0.5,
    "copies": 0.5,
    "worker dies": 0.45,
    "node dies": 0.4,
    "spool": 0.4,
    "closing": 0.3,
    "no space": 0.25,
    "registry away": 0.25,
    "lost claims": 0.25,
    "configs": 0.35,
    "old disk": 0.15,
    "foreign disk": 0.1,
    "old registry": 0.1,
    "damage": 0.08,
    "lost disk": 0.1,
}
LIVE_SLICES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large histories are.

    Attributes:
        slices: that get events.
        open_files: how many slice files a worker has open; one of these.
        steps: from and to.
        faults: with the share of the histories that know each.
    """

    slices: int = LIVE_SLICES
    open_files: tuple[int, ...] = (1, 2, 8)
    steps: tuple[int, int] = (20, 80)
    faults: Mapping[str, float] = field(default_factory=lambda: FAULTS)


SMALL = Scale()
