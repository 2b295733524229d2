"""Tallyslice itself: real node processes, as ``python -m api_node`` and ``python -m worker_node`` start them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import HOST, ask
from bench.events import Count
from bench.peers.peer import HttpRunning, Peer
from bench.servers import Place, answers, free_port, python

SLICE_SECONDS = 86_400  # one slice for a whole run
FIRST_SLICE = "2026-01-01T00:00:00"


@dataclass(slots=True, kw_only=True)
class Cluster(HttpRunning):
    """A cluster that runs.

    Attributes:
        api_pids: the API nodes.
        worker_pids: the workers.
        worker_data: the workers' data folders.
    """

    api_pids: list[int]
    worker_pids: list[int]
    worker_data: list[Path]


@asynccontextmanager
async def cluster(place: Place, *, apis: int = 1, workers: int = 1, **settings: object) -> AsyncIterator[Cluster]:
    """Start a cluster and wait until its API nodes are ready.

    Args:
        place: where.
        apis: how many API nodes.
        workers: how many workers.
        settings: further keys of the cluster file, with ``_`` for ``-``.
    """
    api_ports = [free_port() for _ in range(apis)]
    worker_ports = [free_port() for _ in range(workers)]
    file = place.folder / "cluster.json"
    config = {
        "api-nodes": {str(node): f"http://{HOST}:{port}/analytics" for node, port in enumerate(api_ports)},
        "worker-nodes": {str(node): f"http://{HOST}:{port}/worker" for node, port in enumerate(worker_ports)},
        "length-of-time-slice": SLICE_SECONDS,
        "first-slice": FIRST_SLICE,
        "routing": [{"slice": 0, "nodes": [str(node) for node in range(workers)]}],
        **{name.replace("_", "-"): value for name, value in settings.items()},
    }
    file.write_text(json.dumps(config, indent=1))

    def nodes(kind: str, number: int) -> dict[str, list[str]]:
        names = [f"{kind}-{node}" for node in range(number)]
        return {
            name: python(f"{kind}_node", node, file, "--data", place.folder / name) for node, name in enumerate(names)
        }

    worker_pids = await place.start_together(nodes("worker", workers))
    api_pids = await place.start_together(nodes("api", apis))

    for node, port in enumerate(api_ports):

        async def ready(port: int = port) -> bool:
            return await answers(port, "/readyz")

        await place.until(ready, what=f"api-{node} is ready", log=place.folder / f"api-{node}.log")

    async def counted(at: int) -> Count:
        summary = json.loads(await ask(api_ports[0], f"/analytics?timestamp={at}&format=json"))
        return Count(users=summary["unique_users"], clicks=summary["clicks"], impressions=summary["impressions"])

    yield Cluster(
        ports=api_ports,
        counted=counted,
        api_pids=api_pids,
        worker_pids=worker_pids,
        worker_data=[place.folder / f"worker-{node}" for node in range(workers)],
    )


ONE = Peer(
    name="tallyslice",
    title="Tallyslice, 1 API node + 1 worker",
    config="two processes, the default configuration; slices of a day; every answer means that the events are on disk",
    open=cluster,
)
MANY = Peer(
    name="tallyslice-2-4",
    title="Tallyslice, 2 API nodes + 4 workers",
    config="six processes, the client's connections dealt out to both API nodes; otherwise the same",
    open=lambda place: cluster(place, apis=2, workers=4),
)
