"""Cluster files for tests: a small good one, and what varies of it."""

import json
from pathlib import Path
from typing import Any

from common.config import ClusterConfig, parse_config
from common.routing import WorkerId
from common.wire import Pins

FOLDER = Path("/etc/tallyslice")  # nothing is read from it

ISSUE_EXAMPLE = b"""
{
/* API nodes: each listens where its URL says */
    "api-nodes" : { "0" : "http://localhost:8000/analytics", "1" : "http://localhost:8001/analytics" },
    "worker-nodes" : { "0" : "http://localhost:9000/worker", "1" : "http://localhost:9001/worker",
                       "2" : "http://localhost:9002/worker", "3" : "http://localhost:9003/worker" },
    "length-of-time-slice" : 3600,           // seconds
    "first-slice" : "2017-05-20T00:00:00",
    "routing" : [ { "slice" : 0, "nodes" : ["0"] },
                  { "slice" : 1, "nodes" : ["0", "1"] },
                  { "slice" : 3, "nodes" : ["0", "1", "2", "3"] },
                  { "slice" : 100, "nodes" : ["0"] } ]
}
"""


def cluster_fields(**changes: Any) -> dict[str, Any]:
    """The keys of a good file with two workers; a change's name is its key with _ for -, None leaves the key out."""
    fields: dict[str, Any] = {
        "api-nodes": {"0": "http://localhost:8000/analytics"},
        "worker-nodes": workers("0", "1"),
        "length-of-time-slice": 60,
        "first-slice": "2017-05-20T00:00:00",
        "routing": [{"slice": 0, "nodes": ["0"]}],
    }
    fields.update({name.replace("_", "-"): value for name, value in changes.items()})
    return {name: value for name, value in fields.items() if value is not None}


def workers(*ids: str) -> dict[str, str]:
    """Workers of these ids, each at a port of its own."""
    return {name: f"http://localhost:{9000 + index}/worker" for index, name in enumerate(ids)}


def cluster_bytes(**changes: Any) -> bytes:
    """The same as the bytes of a file."""
    return json.dumps(cluster_fields(**changes)).encode()


def cluster_config(**changes: Any) -> ClusterConfig:
    """The same, read."""
    return parse_config(cluster_bytes(**changes), folder=FOLDER)


def pins_of(config: ClusterConfig, *, first: int = 0) -> Pins:
    """What a cluster that first met with this config has pinned; ``first`` is what "system" meant then."""
    return Pins(
        cluster="c",
        first=first if config.first_slice is None else config.first_slice,
        length_seconds=config.length_of_time_slice,
        secret_id="s",
        registry=config.registry,
        workers={WorkerId(name): f"uuid-{name}" for name in config.worker_nodes},
    )
