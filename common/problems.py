"""Errors as the answers that clients get: RFC 9457 problems. None of them quotes what was sent."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from common.errors import RequestError
from common.request_ids import HEADER, draw_id

PROBLEM_TYPE = "application/problem+json"


class MethodNotAllowed(RequestError):
    """The path is there, but not for this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    slug = "method-not-allowed"
    title = "This method is not allowed here"


class HeadTooLarge(RequestError):
    """The head of the request has more bytes than a head needs."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    slug = "head-too-large"
    title = "The head of the request is too large"


class OtherProblem(RequestError):
    """What the server library refuses for a reason of its own."""

    slug = "http"
    title = "The request cannot be served"

    @classmethod
    def of(cls, status: int) -> OtherProblem:
        """The problem of a status."""
        # Only the phrase of the status: aiohttp's texts may quote the request.
        kind = type("Other", (OtherProblem,), {"status": HTTPStatus(status)})
        other: OtherProblem = kind(HTTPStatus(status).phrase)
        return other


def problem_type(error: RequestError | type[RequestError]) -> str:
    """What kind of problem it is, for programs."""
    return f"urn:tallyslice:problem:{error.slug}"


def problem_response(error: RequestError, *, request_id: str | None = None, **members: object) -> web.Response:
    """The error as RFC 9457 has it, with extension members behind the standard ones.

    Args:
        error: what to tell.
        request_id: of the request; drawn if None.
        members: more to tell.
    """
    request_id = request_id or error.request_id or draw_id()
    body: dict[str, Any] = {
        "type": problem_type(error),
        "title": error.title,
        "status": int(error.status),
        "detail": error.detail if error.field is None else f"{error.field}: {error.detail}",
    }
    if error.field is not None:
        body["field"] = error.field
    body.update(members)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        body["request_id"] = request_id  # our fault, so the log has a line about it
    headers = {**error.headers, HEADER: request_id}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return web.Response(status=error.status, body=msgspec.json.encode(body), content_type=PROBLEM_TYPE, headers=headers)
