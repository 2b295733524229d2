"""The cluster files of a simulated cluster: three workers, and several minds about who holds what."""

from __future__ import annotations

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
