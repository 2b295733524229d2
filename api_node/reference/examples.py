"""The examples of the document, each a call with its answer; a test makes all of these calls, in this order.

They are about 2017-05-20, in a cluster whose slice 0 begins then and whose slices take an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORM, JSON, MULTIPART = "application/x-www-form-urlencoded", "application/json", "multipart/form-data"
NDJSON, PROBLEM, TEXT = "application/x-ndjson", "application/problem+json", "text/plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One call.

    Attributes:
        name: unique within its operation.
        summary: what it shows.
        query: its parameters.
        body_type: the media type of its body, if it has one.
        body: an object of fields, or text where its type is no object.
        status: of the answer.
        answer_type: the media type of the answer's body, if it has one.
        answer: that body, if it is always the same.
    """

    name: str
    summary: str
    query: Mapping[str, str] = field(default_factory=dict)
    body_type: str | None = None
    body: Any = None
    status: int
    answer_type: str | None = None
    answer: Any = None


_SLICE_1 = {
    "slice": 1,
    "start": "2017-05-20T01:00:00Z",
    "end": "2017-05-20T02:00:00Z",
    "unique_users": 2,
    "clicks": 2,
    "impressions": 1,
    "events": {"click": 2, "impression": 1},
    "complete": True,
}
_SLICE_4 = {
    "slice": 4,
    "start": "2017-05-20T04:00:00Z",
    "end": "2017-05-20T05:00:00Z",
    "unique_users": 2,
    "clicks": 2,
    "impressions": 1,
    "events": {"click": 2, "impression": 1},
    "complete": True,
}

COUNT_ONE = (
    Example(
        name="flag",
        summary="The type as a flag in the query",
        query={"timestamp": "2017-05-20T01:00:00Z", "user": "ada", "click": ""},
        status=202,
    ),
    Example(
        name="by-name",
        summary="The type by name in the query",
        query={"timestamp": "1495242000.5", "user": "ada", "event": "impression"},
        status=204,
    ),
    Example(
        name="json",
        summary="As JSON, with an id that makes a retry count once",
        body_type=JSON,
        body={"timestamp": 1495242000.5, "user": "grace", "event": "click", "id": "order-17"},
        status=202,
    ),
    Example(
        name="form",
        summary="As a form: the same event again counts nothing, because of its id",
        body_type=FORM,
        body={"timestamp": "1495242000.5", "user": "grace", "event": "click", "id": "order-17"},
        status=202,
    ),
    Example(
        name="unreadable-time",
        summary="A timestamp that nobody can read",
        query={"timestamp": "yesterday", "user": "ada", "click": ""},
        status=400,
        answer_type=PROBLEM,
        answer={
            "type": "urn:tallyslice:problem:malformed",
            "title": "The request cannot be understood",
            "status": 400,
            "detail": "timestamp: must be Unix seconds, 13-digit milliseconds, or RFC 3339 with an offset",
            "field": "timestamp",
        },
    ),
    Example(
        name="wrong-type",
        summary="A media type that is not read here",
        query={"timestamp": "2017-05-20T01:00:00Z", "user": "ada", "click": ""},
        body_type="text/csv",
        body="2017-05-20T01:00:00Z,ada,click",
        status=415,
        answer_type=PROBLEM,
        answer={
            "type": "urn:tallyslice:problem:media-type",
            "title": "This media type is not read here",
            "status": 415,
            "detail": f"send {FORM}, {MULTIPART} or {JSON}",
        },
    ),
)

COUNT_MANY = (
    Example(
        name="lines",
        summary="Newline-delimited JSON; one event is not taken, the others are",
        body_type=NDJSON,
        body='{"timestamp": 1495252800, "user": "ada", "event": "click", "id": "a-1"}\n'
        '{"timestamp": 1495252801500, "user": "grace", "event": "impression"}\n'
        '{"timestamp": 1495252802, "user": "grace", "event": "purchase"}\n',
        status=202,
        answer_type=JSON,
        answer={
            "accepted": 2,
            "repeated": 0,
            "rejected": 1,
            "errors": [
                {
                    "index": 2,
                    "type": "urn:tallyslice:problem:malformed",
                    "field": "event",
                    "detail": "is not an accepted event type; accepted: click, impression",
                    "retry": False,
                }
            ],
        },
    ),
    Example(
        name="array",
        summary="A JSON array, with other names for the same fields; the first event is known already",
        body_type=JSON,
        body=[
            {"ts": 1495252800, "userid": "ada", "event": "click", "messageId": "a-1"},
            {"ts": "2017-05-20T04:59:59.999Z", "userId": "grace", "event": "click"},
        ],
        status=202,
        answer_type=JSON,
        answer={"accepted": 2, "repeated": 1, "rejected": 0, "errors": []},
    ),
    Example(
        name="nothing-taken",
        summary="No event can be taken",
        body_type=JSON,
        body=[{"timestamp": 1495252800, "event": "click"}],
        status=400,
        answer_type=PROBLEM,
        answer={
            "type": "urn:tallyslice:problem:malformed",
            "title": "The request cannot be understood",
            "status": 400,
            "detail": "user: is missing",
            "field": "user",
            "accepted": 0,
            "repeated": 0,
            "rejected": 1,
            "errors": [
                {
                    "index": 0,
                    "type": "urn:tallyslice:problem:malformed",
                    "field": "user",
                    "detail": "is missing",
                    "retry": False,
                }
            ],
        },
    ),
)

ASK_ONE = (
    Example(
        name="text",
        summary="As text",
        query={"timestamp": "2017-05-20T01:30:00Z"},
        status=200,
        answer_type=TEXT,
        answer="unique_users,2\nclicks,2\nimpressions,1\n",
    ),
    Example(
        name="json",
        summary="As JSON",
        query={"timestamp": "2017-05-20T01:30:00Z", "format": "json"},
        status=200,
        answer_type=JSON,
        answer=_SLICE_1,
    ),
    Example(
        name="unknown-format",
        summary="A format that there is not",
        query={"format": "yaml"},
        status=400,
        answer_type=PROBLEM,
        answer={
            "type": "urn:tallyslice:problem:malformed",
            "title": "The request cannot be understood",
            "status": 400,
            "detail": "format: must be one of json, text",
            "field": "format",
        },
    ),
)

ASK_PER_WORKER = (
    Example(
        name="json",
        summary="As JSON",
        query={"timestamp": "2017-05-20T01:30:00Z", "format": "json"},
        status=200,
        answer_type=JSON,
    ),
    Example(
        name="text",
        summary="As text",
        query={"timestamp": "2017-05-20T01:30:00Z"},
        status=200,
        answer_type=TEXT,
    ),
)

ASK_ALL = (
    Example(
        name="json",
        summary="As JSON",
        query={"timestamp": "2017-05-20T04:00:00Z", "format": "json"},
        status=200,
        answer_type=JSON,
        answer={"slices": [_SLICE_1, _SLICE_4]},
    ),
    Example(
        name="text",
        summary="As text",
        query={"timestamp": "2017-05-20T03:00:00Z"},
        status=200,
        answer_type=TEXT,
        answer="slice,1\nunique_users,2\nclicks,2\nimpressions,1\n",
    ),
)

SHOW_CLUSTER = (Example(name="json", summary="What the node knows", status=200, answer_type=JSON),)
LIVE = (Example(name="ok", summary="The process runs", status=200, answer_type=TEXT, answer="ok\n"),)
READY = (Example(name="ok", summary="The node wants traffic", status=200, answer_type=TEXT, answer="ok\n"),)
METRICS = (Example(name="text", summary="As text", status=200, answer_type=TEXT),)
DOCUMENT = (Example(name="json", summary="This document", status=200, answer_type=JSON),)
