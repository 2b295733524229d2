"""``/events``: many events in one request, and an answer that tells of each one that was not taken."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api_node.routes.analytics import EVENT_BYTES_MAX, FORM, JSON
from common.bodies import read_body
from common.errors import Malformed, NotTaken, OutcomeUnknown, WrongMediaType
from common.events import read_urlencoded
from common.lines import Piece, read_fields, read_json_events, read_ndjson
from common.multipart import MULTIPART, read_multipart
from common.web import json_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api_node.bulk import BulkRequest
    from api_node.intake import Intake
    from common.edge import Edge
    from common.errors import RequestError

BULK_BYTES_MAX = 16 << 20  # as it came, and inflated: 65,536 events of 256 bytes
NDJSON = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})


class EventsRoutes:
    """The handlers."""

    def __init__(self, *, intake: Intake, edge: Edge) -> None:
        self._intake = intake
        self._edge = edge

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_post("/events", self.post)
        app.router.add_post("/events/", self.post)

    async def post(self, request: web.Request) -> web.Response:
        """Count the events of the body."""
        body = await read_body(request, bytes_max=_bytes_max(request))
        report, taken = await self._intake.accept_many(_pieces(request, body))
        if not report.accepted:
            told = msgspec.structs.asdict(report)
            return self._edge.problem(_why_none(taken), route="/events", request=request, **told)
        response = json_response(report, status=HTTPStatus.ACCEPTED)
        response.headers["X-Durability"] = taken.durability
        return response


def _bytes_max(request: web.Request) -> int:
    # A form is one event, and reading one takes longer, byte for byte, than reading many in JSON.
    return EVENT_BYTES_MAX if request.content_type in (FORM, MULTIPART) else BULK_BYTES_MAX


def _pieces(request: web.Request, body: bytes) -> Iterable[Piece]:
    """The events of a body, by its media type.

    Raises:
        WrongMediaType: it is none that is read here.
        Malformed: the body is not of its type as a whole.
        TooLarge: there are too many.
    """
    kind = request.content_type
    if kind in NDJSON:
        return read_ndjson(body)
    if kind == JSON:
        return read_json_events(body)
    if kind == FORM:
        if body.lstrip().startswith((b"{", b"[")):
            # What curl -d sends when nobody said otherwise; read as a form, every field would be missing.
            raise WrongMediaType(f"the body looks like JSON, but came as a form: send it with Content-Type: {JSON}")
        try:
            text = body.decode()
        except UnicodeError:
            raise Malformed("the body is not UTF-8") from None
        return [Piece([read_fields(read_urlencoded(text))])]
    if kind == MULTIPART:
        return [Piece([read_fields(read_multipart(body, request.headers["Content-Type"]))])]
    raise WrongMediaType(f"send application/x-ndjson, {JSON}, {FORM} or {MULTIPART}")


def _why_none(taken: BulkRequest) -> RequestError:
    """What to answer where no event was taken: what may yet be, first; then what the client could mend."""
    errors = list(taken.failures.values())
    if not errors:
        return Malformed("there is no event in the body")
    for kind in (OutcomeUnknown, NotTaken):
        for error in errors:
            if isinstance(error, kind):
                return kind(error.detail)
    first = errors[0]
    if len(errors) == 1:
        return first
    if len({error.slug for error in errors}) == 1:
        return type(first)(f"none of the {len(errors)} events can be taken; see errors")
    return Malformed(f"none of the {len(errors)} events can be taken, for various reasons; see errors")
