"""What an answer of ``POST /events`` means for each line that was sent. Pure.

::

    answer                              the lines
    202, or a problem with errors       as listed; whatever is not listed is counted
    413                                 again, in halves
    408, 429, 503 not-taken             again
    400, 415, 422                       refused, all of them
    500, 502, 503, 504, no answer       nobody knows: again if they have ids, because then it is safe
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_REFUSED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.UNPROCESSABLE_ENTITY})
_NOT_TAKEN = frozenset({"not-taken", "unavailable"})
UNKNOWN = "outcome-unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a line was not taken.

    Attributes:
        position: of the line in its parcel.
        slug: the last part of the problem type.
        detail: what was wrong, in words. No error of the API quotes what was sent.
        field: that is to blame.
        again: whether sending it again is safe, and may help.
    """

    position: int
    slug: str
    detail: str
    field: str | None = None
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """What became of the lines of a parcel: those without a refusal are counted.

    Attributes:
        refusals: one for each line that was not taken.
        repeated: how many of those that are counted had been counted before; None if nobody can tell.
        too_large: there were too many for one request: all is to be sent again in halves.
    """

    refusals: Sequence[Refusal] = ()
    repeated: int | None = 0
    too_large: bool = False


class _LineError(msgspec.Struct, frozen=True):
    index: int
    type: str
    detail: str = ""
    field: str | None = None
    retry: bool = False


class _Answer(msgspec.Struct, frozen=True):
    type: str = ""
    detail: str = ""
    accepted: int = 0
    repeated: int | None = 0
    errors: tuple[_LineError, ...] | None = None


def fates_of(status: int, body: bytes, lines: int, *, has_id: Callable[[int], bool]) -> Fates:
    """What an answer means.

    Args:
        status: of it.
        body: of it.
        lines: how many were sent.
        has_id: whether the line at a position has an id.
    """
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and lines > 1:
        return Fates(too_large=True)
    answer = _read(body)
    if answer is not None and answer.errors is not None and _adds_up(answer, lines):
        refusals = [
            Refusal(position=one.index, slug=_slug(one.type), detail=one.detail, field=one.field, again=one.retry)
            for one in answer.errors
        ]
        return Fates(refusals=refusals, repeated=answer.repeated)
    slug = "" if answer is None else _slug(answer.type)
    detail = (answer.detail if answer is not None else "") or f"status {status}"
    if status in _AGAIN or (status == HTTPStatus.SERVICE_UNAVAILABLE and slug in _NOT_TAKEN):
        return all_of(lines, slug or "not-taken", detail, again=lambda _: True)
    if status in _REFUSED or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return all_of(lines, slug or "refused", detail, again=lambda _: False)
    return all_of(lines, UNKNOWN, detail, again=has_id)


def all_of(lines: int, slug: str, detail: str, *, again: Callable[[int], bool]) -> Fates:
    """The same of all lines."""
    return Fates(
        refusals=[Refusal(position=at, slug=slug, detail=detail, again=again(at)) for at in range(lines)], repeated=0
    )


def _adds_up(answer: _Answer, lines: int) -> bool:
    positions = {one.index for one in answer.errors or ()}
    whole = len(positions) == len(answer.errors or ()) and positions <= set(range(lines))
    return whole and answer.accepted == lines - len(positions)


def _read(body: bytes) -> _Answer | None:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _slug(problem: str) -> str:
    return problem.rpartition(":")[2]
