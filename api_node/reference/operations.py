"""Every call of the API, as a table: what it takes, what it answers, and which errors it may end with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from api_node.reference import examples
from api_node.reference.examples import FORM, JSON, MULTIPART, TEXT, Example
from api_node.reference.schemas import FLAG, FORMS, MEANINGS, Schema, ref
from api_node.routes.analytics import EVENT_BYTES_MAX
from api_node.routes.events import BULK_BYTES_MAX
from api_node.routes.events import NDJSON as NDJSON_NAMES
from common.bodies import BODY_SECONDS, ZSTD_FRAMES_MAX, ZSTD_WINDOW_BYTES_MAX
from common.errors import (
    Malformed,
    NoAnswer,
    NotTaken,
    OutcomeUnknown,
    OutsideWindow,
    RequestError,
    SliceClosed,
    TooLarge,
    TooManySlices,
    TooSlow,
    Unavailable,
    WrongMediaType,
)
from common.events import CLASSIC_TYPES, EVENT, ID, TIMESTAMP, USER
from common.lines import LINES_MAX
from common.problems import HeadTooLarge, OtherProblem

Kind = type[RequestError]

ANY_CALL: tuple[Kind, ...] = (
    Malformed,
    TooSlow,
    HeadTooLarge,
    type(OtherProblem.of(HTTPStatus.EXPECTATION_FAILED)),
    Unavailable,
)
"""What any call may end with, before anything looks at what it is: odd bytes, a head that never ends, no room."""

_EVENTS: tuple[Kind, ...] = (
    TooLarge,
    WrongMediaType,
    OutsideWindow,
    SliceClosed,
    TooManySlices,
    NotTaken,
    OutcomeUnknown,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """An answer that is no problem.

    Attributes:
        text: what it means.
        contents: its forms, by media type; none if it has no body.
        headers: names of ``HEADERS`` that it has.
    """

    text: str
    contents: Mapping[str, Schema] = field(default_factory=dict)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call.

    Attributes:
        name: for programs that are made of the document.
        scope: what a token must be good for, where tokens are asked for; None if none ever is.
        bodies: what it reads, by media type.
        answers: by status.
        errors: beside those that any call may end with.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    text: str
    scope: str | None
    parameters: tuple[Schema, ...] = ()
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    body_needed: bool = False
    answers: Mapping[int, Success]
    errors: tuple[Kind, ...] = ()
    examples: tuple[Example, ...] = ()


HEADERS: dict[str, Schema] = {
    "X-Durability": {
        "description": "Whose disk the events are on: their worker's, and so in the counts; or the API node's own, in "
        "its spool, and in the counts when their worker is back.",
        "required": True,
        "schema": {"type": "string", "enum": ["worker", "spool"]},
    },
    "X-Complete": {
        "description": "Whether everything that was acknowledged is in the answer.",
        "required": True,
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Cache-Control": {
        "description": "An answer goes stale at once.",
        "required": True,
        "schema": {"type": "string", "const": "no-store"},
    },
    "ETag": {
        "description": "Names this version of the document.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds after which trying again makes sense.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Request-Id": {
        "description": "The id that the request brought, or one that was drawn: of the log's line about it, if the "
        "fault is ours.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
    },
    "RateLimit-Policy": {
        "description": "How often the token, or the address, may call: q requests in w seconds.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": "What is left of that: r requests for t seconds.",
        "required": True,
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "How to say who calls, or what the token lacks.",
        "required": True,
        "schema": {"type": "string"},
    },
}

_LINES = {"type": "string", "pattern": r"^([^,\n]+,[^\n]+\n)*$"}


def _parameter(name: str, schema: Schema, text: str, **more: Any) -> Schema:  # noqa: ANN401 - members of the schema
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema, **more}


def _of_event(name: str) -> Schema:
    return _parameter(name, {"type": "string", **FORMS[name]}, MEANINGS[name])


_CODING: Schema = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed, if it is. gzip and deflate: one stream; zstd: windows of at most "
    f"{ZSTD_WINDOW_BYTES_MAX >> 20} MiB, at most {ZSTD_FRAMES_MAX} frames.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "zstd", "identity"]},
}
_EVENT_PARAMETERS = (
    *(_of_event(name) for name in (TIMESTAMP, USER, EVENT, ID)),
    *(_parameter(name, {"type": "string"}, FLAG, allowEmptyValue=True) for name in sorted(CLASSIC_TYPES)),
    _CODING,
)


def _question(timestamp: str) -> tuple[Schema, ...]:
    return (
        _parameter(TIMESTAMP, {"type": "string", **FORMS[TIMESTAMP]}, timestamp),
        _parameter(
            "format",
            {"type": "string", "enum": ["text", "json"]},
            "The form of the answer: text unless it is given, or `Accept` names application/json.",
        ),
        _parameter(
            "partial",
            {"type": "boolean", "default": False},
            "If a worker does not answer: the sum of the rest instead of 503.",
        ),
    )


def _summary_of(schema: str) -> dict[int, Success]:
    return {
        200: Success(
            text="What is known of it.",
            contents={TEXT: _LINES, JSON: ref(schema)},
            headers=("X-Complete", "Cache-Control"),
        )
    }


_PLAIN = {TEXT: {"type": "string"}}

OPERATIONS = (
    Operation(
        method="post",
        path="/analytics",
        name="countEvent",
        tag="events",
        summary="Count one event",
        text="The fields may come in the query, as a form, as JSON, or some in the query and some in the body. A field "
        f"given twice is an error. A body has at most {EVENT_BYTES_MAX} bytes and arrives within {BODY_SECONDS:g} s.",
        scope="write",
        parameters=_EVENT_PARAMETERS,
        bodies={JSON: ref("Event"), FORM: ref("EventForm"), MULTIPART: ref("EventForm")},
        answers={
            202: Success(text="The event is on disk, and will be counted once.", headers=("X-Durability",)),
            204: Success(
                text="The same, where the type came as `event=` in the query and there is no body.",
                headers=("X-Durability",),
            ),
        },
        errors=_EVENTS,
        examples=examples.COUNT_ONE,
    ),
    Operation(
        method="post",
        path="/events",
        name="countEvents",
        tag="events",
        summary="Count many events",
        text=f"At most {LINES_MAX} events in at most {BULK_BYTES_MAX} bytes, as they came and inflated; a form has one "
        f"event, in at most {EVENT_BYTES_MAX} bytes. What is not listed in the answer's `errors` is done: it must not "
        "be sent again.",
        scope="write",
        parameters=(_CODING,),
        bodies={
            # A sequence of objects, a line each, which a schema of OpenAPI 3.1 cannot say: see EventLine.
            **{name: {"type": "string", "description": "EventLine, one a line"} for name in sorted(NDJSON_NAMES)},
            JSON: ref("Events"),
            FORM: ref("EventLineForm"),
            MULTIPART: ref("EventLineForm"),
        },
        body_needed=True,
        answers={
            202: Success(
                text="At least one event was taken: it is on disk, and will be counted once.",
                contents={JSON: ref("Report")},
                headers=("X-Durability",),
            )
        },
        errors=_EVENTS,
        examples=examples.COUNT_MANY,
    ),
    Operation(
        method="get",
        path="/analytics",
        name="summary",
        tag="summaries",
        summary="The summary of one slice",
        text="Unique users, and events by type. A slice that nobody ever wrote to is zeros; what cannot be known, 503.",
        scope="read",
        parameters=_question("Which slice: the one that this time falls into; now if it is not given."),
        answers=_summary_of("SliceSummary"),
        errors=(NoAnswer,),
        examples=examples.ASK_ONE,
    ),
    Operation(
        method="get",
        path="/analytics/perworker",
        name="summaryPerWorker",
        tag="summaries",
        summary="The summary of one slice, worker by worker",
        text="In route order.",
        scope="read",
        parameters=_question("Which slice: the one that this time falls into; now if it is not given."),
        answers=_summary_of("PerWorker"),
        errors=(NoAnswer,),
        examples=examples.ASK_PER_WORKER,
    ),
    Operation(
        method="get",
        path="/analytics/allslices",
        name="allSummaries",
        tag="summaries",
        summary="The summaries of all slices that hold data",
        text="Oldest first, up to a time.",
        scope="read",
        parameters=_question("The last slice is the one that this time falls into; now if it is not given."),
        answers=_summary_of("AllSlices"),
        errors=(NoAnswer,),
        examples=examples.ASK_ALL,
    ),
    Operation(
        method="get",
        path="/cluster",
        name="cluster",
        tag="operation",
        summary="What this node knows of its cluster",
        text="Freshly asked of the registry, where it answers.",
        scope="read",
        answers={200: Success(text="What it knows.", contents={JSON: ref("ClusterState")})},
        examples=examples.SHOW_CLUSTER,
    ),
    Operation(
        method="get",
        path="/livez",
        name="alive",
        tag="operation",
        summary="Whether the process runs",
        text="",
        scope=None,
        answers={200: Success(text="It runs.", contents=_PLAIN)},
        examples=examples.LIVE,
    ),
    Operation(
        method="get",
        path="/readyz",
        name="ready",
        tag="operation",
        summary="Whether the process wants traffic",
        text="",
        scope=None,
        answers={
            200: Success(text="It does.", contents=_PLAIN),
            503: Success(text="It does not: the reasons, a line each.", contents=_PLAIN),
        },
        examples=examples.READY,
    ),
    Operation(
        method="get",
        path="/metrics",
        name="metrics",
        tag="operation",
        summary="Metrics, for Prometheus",
        text="",
        scope="read",
        answers={200: Success(text="In Prometheus' text format.", contents=_PLAIN)},
        examples=examples.METRICS,
    ),
    Operation(
        method="get",
        path="/openapi.json",
        name="openapi",
        tag="operation",
        summary="This document",
        text="The same as long as the process runs. A page that shows it is at `/docs`.",
        scope=None,
        answers={
            200: Success(text="OpenAPI 3.1.", contents={JSON: {"type": "object"}}, headers=("ETag",)),
            304: Success(text="The version that `If-None-Match` names is still this one.", headers=("ETag",)),
        },
        examples=examples.DOCUMENT,
    ),
)

NOT_PART = {
    "/cluster/routes": "between nodes, and for `tallyslice registry`: asked in msgpack, with the internal token",
    "/": "the dashboard, a page for people",
    "/dashboard/{name}": "likewise",
    "/live/process": "what one process of a node counts, for the others",
    "/live": "what that page reads: its form follows the page, and changes with it",
    "/docs": "a page for people, which shows the document",
    "/docs/viewer.js": "likewise",
    "/docs/page.css": "likewise",
}
"""What the application answers that is no part of the API, and why."""
