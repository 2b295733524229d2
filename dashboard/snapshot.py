"""What the page is told, once a second: everything that it shows, whole, so that any one snapshot is enough.

::

    Snapshot -+- current    the slice of now: figures, its types
              +- past       the last slices, in columns, as the chart wants them
              +- workers    a row of the table each
              +- node       what this node takes, and what waits here
              +- cluster    constants, routes, the last change that was refused

Types of events are what clients call them, so there may be hundreds: a snapshot names the largest and adds up the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

TYPES_SHOWN_MAX = 12  # as many as a person compares at a glance; the rest is one number
SETTLED_SHOWN_MAX = 8  # runs of slices with the same route, newest first
WORKERS_SHOWN_MAX = 48
TEXTS_SHOWN_MAX = 8  # reasons and problems: /cluster has all of them
TEXT_CHARACTERS_MAX = 400


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """The slice of now.

    Attributes:
        slice: which.
        start: its first instant, in milliseconds since 1970; so is ``end``, the first instant after it.
        end: see ``start``.
        users: unique users.
        clicks: events of this type; so ``impressions``.
        impressions: see ``clicks``.
        others: events of all other types.
        types: the largest of those, with their counts, most first.
        types_more: how many further ones there are.
        events_more: and how many events of them.
        complete: whether everything that was acknowledged is in it.
        silent: workers of its route that do not answer: what they told last is in it.
    """

    slice: int
    start: int
    end: int
    users: int
    clicks: int
    impressions: int
    others: int
    types: Sequence[tuple[str, int]]
    types_more: int
    events_more: int
    complete: bool
    silent: Sequence[str]


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """The last slices, the current one last; each attribute has one value per slice.

    Attributes:
        slices: which.
        start: in Unix seconds.
        users: unique users.
        clicks: events of this type; so ``impressions``.
        impressions: see ``clicks``.
        others: events of all other types.
        complete: whether everything that was acknowledged is in them.
    """

    slices: Sequence[int] = ()
    start: Sequence[float] = ()
    users: Sequence[int] = ()
    clicks: Sequence[int] = ()
    impressions: Sequence[int] = ()
    others: Sequence[int] = ()
    complete: Sequence[bool] = ()


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as this node sees it.

    Attributes:
        id: as in the cluster file.
        state: ``ok``, ``away``, ``refused`` or ``unknown``.
        detail: why, if it is not ok.
        in_route: whether it holds a part of the current slice.
        users: unique users of that part.
        events: events of that part.
        queue_events: events of this node that wait for its receipt.
        spool_events: events for it on this node's disk.
        parked: slices that it refuses to take from this node.
        silent_seconds: since its last answer to this page's questions; None if there was none.
    """

    id: str
    state: str
    detail: str | None
    in_route: bool
    users: int
    events: int
    queue_events: int
    spool_events: int
    parked: int
    silent_seconds: float | None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """This node.

    Attributes:
        events_per_second: taken by it, over the last seconds; None while that is not known.
        queue_events: events that wait for a worker's receipt.
        spool_events: events on its disk.
        spool_bytes: of those.
        spool_age_seconds: how long the oldest wait.
        processes: how many it has.
        processes_silent: those of them that do not tell; what they count is in no figure.
        viewers: pages that look at it.
        problems: what people should know.
    """

    events_per_second: float | None
    processes: int
    processes_silent: Sequence[int]
    queue_events: int
    spool_events: int
    spool_bytes: int
    spool_age_seconds: float
    viewers: int
    problems: Sequence[str]


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Slices in a row with the same settled route.

    Attributes:
        first: the oldest of them.
        last: the newest.
        workers: the route.
        differs: whether the cluster file now proposes another route for one of them.
    """

    first: int
    last: int
    workers: Sequence[str]
    differs: bool


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The last change of the cluster file that was refused.

    Attributes:
        at: when, in milliseconds since 1970.
        reasons: why.
        stands: whether the file is still as it was refused.
    """

    at: int
    reasons: Sequence[str]
    stands: bool


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, as this node knows it.

    Attributes:
        id: drawn at its first contact; None before. So are the other constants:
        first: the start of slice 0, in milliseconds since 1970.
        slice_seconds: the length of a slice.
        registry: the worker where routes are settled.
        claims: how many were.
        version: a digest of the cluster file in use.
        settled: the latest, newest first.
        refused: the last change that was refused since the node started; None if none was.
    """

    id: str | None
    first: int | None
    slice_seconds: int
    registry: str
    claims: int
    version: str
    settled: Sequence[Settled]
    refused: Refused | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows.

    Attributes:
        at: when it was made, in milliseconds since 1970.
        current: the slice of now; None before the node has met its cluster.
        past: the last slices.
        workers: in the order of the cluster file; of many, those that are not well, and the first of the others.
        workers_more: how many others are not among them.
        events_per_second: counted by the cluster, over the last seconds; None while that is not known.
        node: this node.
        cluster: the cluster.
    """

    at: int
    current: Current | None
    past: Past
    workers: Sequence[Worker]
    workers_more: int
    events_per_second: float | None
    node: Node
    cluster: Cluster


def largest(counts: Mapping[str, int]) -> tuple[list[tuple[str, int]], int, int]:
    """The largest counts, most first; how many others there are, and their sum."""
    ranked = sorted(((name, count) for name, count in counts.items() if count), key=lambda one: (-one[1], one[0]))
    rest = ranked[TYPES_SHOWN_MAX:]
    return ranked[:TYPES_SHOWN_MAX], len(rest), sum(count for _, count in rest)


def chosen(workers: Sequence[Worker]) -> list[Worker]:
    """As many workers as a page has room for, in their order; those that are not well before the others."""
    if len(workers) <= WORKERS_SHOWN_MAX:
        return list(workers)
    ranked = sorted(range(len(workers)), key=lambda at: (workers[at].state == "ok", at))
    return [workers[at] for at in sorted(ranked[:WORKERS_SHOWN_MAX])]


def runs(routes: Iterable[tuple[int, Sequence[str], bool]]) -> list[Settled]:
    """Slices with their routes, and whether the file differs, as runs of the same.

    Args:
        routes: ascending by slice.

    Returns:
        The newest ones, newest first.
    """
    found: list[Settled] = []
    for at, workers, differs in routes:
        if found and found[-1].last == at - 1 and found[-1].workers == workers:
            found[-1] = msgspec.structs.replace(found[-1], last=at, differs=found[-1].differs or differs)
        else:
            found.append(Settled(first=at, last=at, workers=workers, differs=differs))
    return found[: -SETTLED_SHOWN_MAX - 1 : -1]


def shortened(texts: Sequence[str]) -> list[str]:
    """Texts as a page has room for them; the last one says how many were left out."""
    shown = [
        text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[: TEXT_CHARACTERS_MAX - 1]}…"
        for text in texts[:TEXTS_SHOWN_MAX]
    ]
    left = len(texts) - len(shown)
    return [*shown, f"and {left} more: see /cluster"] if left else shown
