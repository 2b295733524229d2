"""What is known of a slice: unique users and a count per event type; how summaries add up, and how they are shown.

Each user of a slice belongs to exactly one worker of its route, so the sum over the workers is plain addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.slices import SliceClock, SliceId, format_instant

if TYPE_CHECKING:
    from collections.abc import Iterable

CLICK, IMPRESSION = "click", "impression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a worker, or the cluster, knows of one slice.

    Attributes:
        slice: the slice.
        users: unique users.
        counts: events by type; only types that occurred.
        complete: whether everything that was acknowledged is in it.
        late: events that arrived after the slice was closed: in ``counts`` at most, never in ``users``.
    """

    slice: SliceId
    users: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    complete: bool = True
    late: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing ever arrived, as far as is known."""
        return self.users == 0 and self.late == 0 and self.complete and not any(self.counts.values())


def add(slice_id: SliceId, parts: Iterable[Summary], *, all_answered: bool = True) -> Summary:
    """The sum of what each worker of a route knows.

    Args:
        slice_id: the slice that all parts are about.
        parts: one per worker that answered.
        all_answered: whether no worker is missing.
    """
    users, late, complete = 0, 0, all_answered
    counts: dict[str, int] = {}
    for part in parts:
        users += part.users
        late += part.late
        complete = complete and part.complete
        for name, count in part.counts.items():
            counts[name] = counts.get(name, 0) + count
    return Summary(slice=slice_id, users=users, counts=counts, complete=complete, late=late)


def to_text(summary: Summary, *, users_label: str = "unique_users") -> str:
    r"""Lines of ``label,number``, each ended by ``\n``: users, clicks, impressions, then other types by name."""
    counts = summary.counts
    lines = [
        f"{users_label},{summary.users}\n",
        f"clicks,{counts.get(CLICK, 0)}\n",
        f"impressions,{counts.get(IMPRESSION, 0)}\n",
        *(f"{name},{counts[name]}\n" for name in sorted(counts) if name not in (CLICK, IMPRESSION) and counts[name]),
    ]
    if summary.late:
        lines.append(f"late,{summary.late}\n")
    return "".join(lines)


def to_json(summary: Summary, clock: SliceClock) -> dict[str, Any]:
    """The summary as an object of JSON, with the span of its slice."""
    counts = summary.counts
    shown: dict[str, Any] = {
        "slice": summary.slice,
        "start": format_instant(clock.start(summary.slice)),
        "end": format_instant(clock.end(summary.slice)),
        "unique_users": summary.users,
        "clicks": counts.get(CLICK, 0),
        "impressions": counts.get(IMPRESSION, 0),
        "events": {name: counts[name] for name in sorted(counts) if counts[name]},
        "complete": summary.complete,
    }
    if summary.late:
        shown["late"] = summary.late
    return shown
