"""``tallyslice status``: is every node of a cluster well, and if not, why?"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.errors import InputOutputFailed
from common.slices import format_instant
from tallyslice.screen import new_console, new_table
from tallyslice.target import find_target, target_options

if TYPE_CHECKING:
    from tallyslice.health import ClusterHealth, NodeHealth

_STYLES = {"ready": "green", "not ready": "bold yellow", "away": "bold red"}
GIB = 1 << 30


@click.command
@target_options(by_url=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(cluster: Path | None, token_file: Path | None, ca: Path | None, as_json: bool) -> int:
    """Ask every node of the cluster file how it is.

    \b
    Examples:
      tallyslice status
      tallyslice status --cluster /srv/tallyslice/cluster.json --json

    Exit status 0 if all is well; 1 if something is wrong, and the cluster answers; 70 if no node does.
    """
    from tallyslice.health import look  # noqa: PLC0415 - slow to import: whoever asks for help should not wait for it

    target = find_target(cluster=cluster, token_file=token_file, ca=ca)
    config = target.config
    assert config is not None  # noqa: S101 - without --url there is one
    health = asyncio.run(look(target, config))
    if as_json:
        click.echo(json.dumps(plain(health), indent=1))
    else:
        show(new_console(), health)
    if not health.answers:
        if as_json:
            return InputOutputFailed.exit_code
        raise InputOutputFailed(f"No node of {target.file} answers. {target.hint}")
    return 1 if health.problems() else 0


def plain(health: ClusterHealth) -> dict[str, Any]:
    """As JSON."""
    pins = health.pins
    return {
        "well": health.answers and not health.problems(),
        "version": health.config.version,
        "pins": None if pins is None else msgspec.to_builtins(pins) | {"first_slice": format_instant(pins.first)},
        "registry": {
            "worker": health.config.registry,
            "claims": None if health.registry is None else health.registry.claims,
            "problem": health.registry_problem,
        },
        "nodes": [_plain_node(node) for node in health.nodes],
        "problems": health.problems(),
        "notes": health.notes(),
    }


def _plain_node(node: NodeHealth) -> dict[str, Any]:
    state = {} if node.state is None else msgspec.to_builtins(node.state)
    state.pop("pins", None)  # told once, for the cluster
    identity = node.identity
    return {
        "node": node.name,
        "url": node.url,
        "condition": node.condition,
        "detail": node.away or node.unready,
        **state,
        **({} if identity is None else {"uuid": identity.uuid, "cluster": identity.cluster, "claims": identity.claims}),
    }


def show(console: Console, health: ClusterHealth) -> None:
    """Print it for people: what there is, then what is wrong with it."""
    problems = health.problems()
    pins = health.pins
    if pins is not None:
        length = f"slices of {pins.length_seconds} s, slice 0 from {format_instant(pins.first)}"
        claims = "?" if health.registry is None else f"{health.registry.claims:,}"
        console.print(f"Cluster {pins.cluster}: {length}; registry at worker {pins.registry}, {claims} claims\n")
    for table in _tables(health):
        console.print(table)
        console.print()
    for note in health.notes():
        console.print(note)
    for problem in problems:
        console.print(f"! {problem}", style="yellow")
    if not problems:
        console.print("All is well.", style="green")


def _tables(health: ClusterHealth) -> Iterator[Table]:
    """One for the API nodes, one for the workers; the version of the file only where they differ."""
    differ = len({node.state.version for node in health.nodes if node.state is not None}) > 1
    for kind, heads in _HEADS.items():
        table = new_table("Node", "URL", "State", *heads, *(["Config"] if differ else []), numbers=heads[1:])
        for node in health.nodes:
            if node.name.startswith(kind):
                condition = Text(node.condition, style=_STYLES[node.condition])
                version = [node.state.version if node.state is not None else ""] if differ else []
                table.add_row(node.name, node.url.rpartition("/")[0], condition, *_figures(node), *version)
        yield table


_HEADS = {"api-": ("Workers", "Waiting", "Spooled"), "worker-": ("Slices", "Waiting", "Free")}


def _figures(node: NodeHealth) -> tuple[str, str, str]:
    """What the node has to do with: workers or slices, events that wait, events in the spool or free space."""
    from tallyslice.health import ApiState, WorkerState  # noqa: PLC0415 - as above

    if isinstance(node.state, ApiState):
        states = Counter(worker.state for worker in node.state.workers)
        waiting = sum(worker.queue_events for worker in node.state.workers)
        return _counted(states), f"{waiting:,}", f"{node.state.spool.events:,}"
    if isinstance(node.state, WorkerState):
        held = node.state.slices
        slices = {"open": held.open, "verifying": held.verifying, "closed": held.closed}
        slices["quarantined"] = len(held.quarantined)
        return _counted(slices), f"{node.state.waiting_events:,}", f"{node.state.free_bytes / GIB:,.1f} GiB"
    return "", "", ""


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"
