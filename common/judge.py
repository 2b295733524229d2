"""May this config replace that one? Plain decisions over plain values.

Refused is what would make numbers wrong: a change of what the cluster has pinned (slice length, start of slice 0, the
registry's host), and the removal of a worker that a settled route names. Everything else is accepted; settled routes
stay as they are, whatever the file proposes for their slices.

The same questions are asked at start (there is no running config yet) and of every change after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.config import ClusterConfig
from common.routing import Route, WorkerId, proposed_route
from common.slices import SliceId, format_instant
from common.wire import Pins, SettledRoute

AnyId = TypeVar("AnyId", bound=str)

# What a change of these says needs no words of its own: the key, the old and the new value.
_PLAIN = (
    "registry", "event_types", "cache_ttl_seconds", "reload_seconds", "close_after_seconds", "close_grace_seconds",
    "max_future_seconds", "max_past_seconds", "max_slices", "spool_max_bytes", "spool_max_age_seconds",
    "secret_file", "internal_token_file", "tls", "tracing",
    "tokens_file", "rate_limits", "cors_origins", "trusted_proxies", "compat",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge says of a proposed config.

    Attributes:
        refusals: why it must not be used; empty if it may.
        changes: what it changes in the running one, in words, slice range by slice range.
    """

    refusals: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the config may be used."""
        return not self.refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """What becomes of a range of slices.

    Attributes:
        first: the first slice; None: there is none before it.
        last: the last slice; None: there is none after it.
        old: the route that the old config proposes.
        new: the route that the new config proposes.
        settled: the route that stands, whatever the configs propose; None if none is settled.
    """

    first: SliceId | None
    last: SliceId | None
    old: Route
    new: Route
    settled: Route | None = None

    @property
    def slices(self) -> str:
        """The range in words."""
        if self.first is None:
            return "all slices" if self.last is None else f"slices up to {self.last}"
        if self.last is None:
            return f"slices {self.first} and later"
        return f"slice {self.first}" if self.first == self.last else f"slices {self.first} to {self.last}"


def judge(
    running: ClusterConfig | None, proposed: ClusterConfig, *, pins: Pins | None, named: frozenset[WorkerId] | None
) -> Verdict:
    """Judge a config.

    Args:
        running: what it would replace; None at start.
        proposed: the config to judge.
        pins: the cluster's constants; None if they are not known: then those of the running config count as pinned,
            because they may be.
        named: the workers that settled routes name; None if that is not known: then no worker may go.
    """
    if pins is not None:
        refusals = _against_pins(proposed, pins)
    else:
        refusals = [] if running is None else _against_running(running, proposed)
    if named is not None:
        gone = sorted(named - proposed.worker_nodes.keys())
        refusals += [
            f"worker-nodes: worker {_quoted(name)} holds settled slices and cannot be removed" for name in gone
        ]
    elif running is not None:
        gone = sorted(running.worker_nodes.keys() - proposed.worker_nodes.keys())
        why = "cannot be removed while the registry cannot say which workers hold settled slices"
        refusals += [f"worker-nodes: worker {_quoted(name)} {why}" for name in gone]
    changes = () if running is None else tuple(_changes(running, proposed))
    return Verdict(refusals=tuple(refusals), changes=changes)


def _against_pins(proposed: ClusterConfig, pins: Pins) -> list[str]:
    refusals = []
    if proposed.length_of_time_slice != pins.length_seconds:
        refusals.append(_pinned("length-of-time-slice", proposed.length_of_time_slice, pins.length_seconds))
    # "system" stands for whatever is pinned.
    if proposed.first_slice is not None and proposed.first_slice != pins.first:
        shown = format_instant(proposed.first_slice), format_instant(pins.first)
        refusals.append(_pinned("first-slice", shown[0], f'{shown[1]} (or "system")'))
    if pins.registry not in proposed.worker_nodes:
        refusals.append(f"worker-nodes: worker {_quoted(pins.registry)} hosts the registry and cannot be removed")
    elif proposed.registry != pins.registry:
        refusals.append(_pinned("registry", _quoted(proposed.registry), _quoted(pins.registry)))
    return refusals


def _pinned(key: str, proposed: object, pinned: object) -> str:
    return f"{key}: {proposed} is not what the cluster has pinned; must stay {pinned}"


def _against_running(running: ClusterConfig, proposed: ClusterConfig) -> list[str]:
    shown = {
        "length-of-time-slice": (running.length_of_time_slice, proposed.length_of_time_slice),
        "first-slice": (_first(running), _first(proposed)),
        "registry": (_quoted(running.registry), _quoted(proposed.registry)),
    }
    return [
        f"{key}: {new} cannot replace {old} while the cluster's pins are not known"
        for key, (old, new) in shown.items()
        if old != new
    ]


def _changes(running: ClusterConfig, proposed: ClusterConfig) -> Iterator[str]:
    yield from _nodes_changed("API node", running.api_nodes, proposed.api_nodes)
    yield from _nodes_changed("worker", running.worker_nodes, proposed.worker_nodes)
    if running.length_of_time_slice != proposed.length_of_time_slice:
        yield f"length-of-time-slice: {running.length_of_time_slice} -> {proposed.length_of_time_slice}"
    if running.first_slice != proposed.first_slice:
        yield f"first-slice: {_first(running)} -> {_first(proposed)}"
    for line in route_plan(running, proposed, {}):
        if line.old != line.new:
            yield f"{line.slices}, where not settled: {show_route(line.old)} -> {show_route(line.new)}"
    for name in _PLAIN:
        old, new = getattr(running, name), getattr(proposed, name)
        if old != new:
            yield f"{name.replace('_', '-')}: {_plain(old)} -> {_plain(new)}"


def _nodes_changed(kind: str, old: Mapping[AnyId, str], new: Mapping[AnyId, str]) -> Iterator[str]:
    for name in old:
        if name not in new:
            yield f"{kind} {_quoted(name)} goes"
        elif old[name] != new[name]:
            yield f"{kind} {_quoted(name)} moves from {old[name]} to {new[name]}"
    for name in new:
        if name not in old:
            yield f"{kind} {_quoted(name)} comes, at {new[name]}"


def route_plan(old: ClusterConfig, new: ClusterConfig, settled: Mapping[SliceId, Route]) -> tuple[PlanLine, ...]:
    """Which slices route where, under two configs and what is settled, in ascending ranges that cover all slices.

    Args:
        old: the config that is replaced.
        new: the config that replaces it.
        settled: slice -> route, as far as it is known.
    """
    starts = {entry.slice for entry in (*old.routing, *new.routing)}
    starts.update(settled)
    starts.update(SliceId(slice_id + 1) for slice_id in settled)
    # From each start up to the next one nothing changes; below the first, slices route as the one just below it.
    ranges: list[tuple[SliceId | None, Route, Route, Route | None]] = []
    for first in (None, *sorted(starts)):
        at = SliceId(min(starts) - 1) if first is None else first
        routes = proposed_route(old.routing, at), proposed_route(new.routing, at), settled.get(at)
        if not ranges or ranges[-1][1:] != routes:
            ranges.append((first, *routes))
    lasts = [SliceId(first - 1) for first, *_ in ranges[1:] if first is not None]
    return tuple(
        PlanLine(first=first, last=last, old=before, new=after, settled=stands)
        for (first, before, after, stands), last in zip(ranges, (*lasts, None), strict=True)
    )


def differing(config: ClusterConfig, settled: Iterable[SettledRoute]) -> list[SettledRoute]:
    """The settled routes for which the config now proposes another."""
    return [one for one in settled if proposed_route(config.routing, one.slice) != one.route]


def show_route(route: Sequence[str]) -> str:
    """A route as the cluster file writes it: ``["0", "1"]``."""
    return json.dumps(list(route))


def _first(config: ClusterConfig) -> str:
    return '"system"' if config.first_slice is None else format_instant(config.first_slice)


def _quoted(name: str) -> str:
    return json.dumps(name)


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps([str(one) for one in value])
    return "null" if value is None else str(value)
