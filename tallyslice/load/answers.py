"""What an answer means for each event that was sent: taken, refused for good, surely not taken, or nobody knows. Pure.

::

    answer                                    the events
    202, 204                                  taken; of POST /events, but for those in its list of errors
    503 not-taken, 408, 429, not connected    not taken: sending them again is safe
    400, 413, 422, ...                        refused: sending them again is no use
    503 outcome-unknown, 5xx, no answer       unknown: sending them again is safe if they have ids

A list of errors tells it event by event, whatever the status is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from tallyslice.load.connection import UNREACHED, Reply

_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, UNREACHED)
_NOT_TAKEN, _UNKNOWN = "not-taken", "outcome-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the events of one request. Those whose positions are not listed were taken.

    Attributes:
        refused: for good, each with the reason.
        not_taken: surely not counted.
        unknown: perhaps counted.
    """

    refused: Sequence[tuple[int, str]] = ()
    not_taken: Sequence[int] = ()
    unknown: Sequence[int] = ()


ALL_TAKEN = Outcome()


class _LineError(msgspec.Struct, frozen=True):
    index: int
    type: str


class _Answer(msgspec.Struct, frozen=True):
    """The members of a problem, and those of an answer to many events; each may be missing."""

    type: str = ""
    accepted: int = 0
    rejected: int = 0
    errors: tuple[_LineError, ...] | None = None


def outcome_of(reply: Reply, events: int, *, bulk: bool) -> Outcome:
    """What an answer means for the events of a request.

    Args:
        reply: the answer.
        events: how many were sent.
        bulk: whether they were sent to ``POST /events``, which tells what became of each.
    """
    if reply.good and not bulk:
        return ALL_TAKEN
    answer = _read(reply.body)
    if bulk and answer is not None and answer.errors is not None:
        return _by_line(answer.errors, answer.accepted, events)
    return _of_all(reply.status, answer, range(events))


def _of_all(status: int, answer: _Answer | None, every: range) -> Outcome:
    """What an answer means that tells all events the same."""
    slug = _slug(answer.type) if answer is not None else ""
    if status in _AGAIN or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and slug == _NOT_TAKEN):
        return Outcome(not_taken=every)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = f"status {status}, {slug}" if slug else f"status {status}"
        return Outcome(refused=[(n, reason) for n in every])
    return Outcome(unknown=every)  # no answer, or a success that does not say of what


def _by_line(errors: Sequence[_LineError], accepted: int, events: int) -> Outcome:
    if not errors and accepted == events:
        return ALL_TAKEN
    positions = {one.index for one in errors}
    if len(positions) < len(errors) or not positions <= set(range(events)) or accepted != events - len(errors):
        return Outcome(unknown=range(events))  # it contradicts itself: none of it can be believed
    slugs = [(one.index, _slug(one.type)) for one in errors]
    return Outcome(
        refused=[(n, slug) for n, slug in slugs if slug not in (_NOT_TAKEN, _UNKNOWN)],
        not_taken=_positions(slugs, _NOT_TAKEN),
        unknown=_positions(slugs, _UNKNOWN),
    )


def _positions(slugs: Iterable[tuple[int, str]], wanted: str) -> list[int]:
    return [n for n, slug in slugs if slug == wanted]


def _read(body: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except msgspec.DecodeError:
        return None


def _slug(problem: str) -> str:
    return problem.rpartition(":")[2]
