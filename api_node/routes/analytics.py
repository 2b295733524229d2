"""``/analytics``: events in, summaries out."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import web
from cachetools import LRUCache

from api_node.bulk import SPOOL, WORKER
from common.bodies import read_body
from common.errors import Malformed, WrongMediaType
from common.events import EVENT, TIMESTAMP, parse_timestamp, read_json, read_urlencoded
from common.hot import HOT, HotRoutes, header_lines, quick_answer
from common.multipart import MULTIPART, read_multipart
from common.summaries import add, to_json, to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from api_node.delivery import Waiter
    from api_node.intake import Intake
    from api_node.membership import Membership
    from api_node.queries import Queries, WorkerSummary
    from common.config import ClusterConfig
    from common.edge import Edge
    from common.events import Field
    from common.lane import Head, Send
    from common.slices import Micros, SliceId
    from common.summaries import Summary
    from common.wire import Held

ANSWERS_MAX = 256  # kept as they went out: of the slices, and in the forms, that are asked for right now
EVENT_BYTES_MAX = 64 << 10  # one event with its properties
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
# As numbers: to name a member of an enum costs as much as to look it up.
_OK, _ACCEPTED, _NO_CONTENT = (int(status) for status in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT))
# What this process answered goes stale at once, and a proxy must not keep it.
NO_STORE = {"Cache-Control": "no-store"}


class _Wish(NamedTuple):
    """What a question asks for."""

    slice: SliceId
    as_json: bool
    partial: bool


class AnalyticsRoutes:
    """The handlers."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        membership: Membership,
        intake: Intake,
        queries: Queries,
        spooled: Callable[[], Mapping[SliceId, int]],
        now: Callable[[], Micros],
    ) -> None:
        self._config = config
        self._membership = membership
        self._intake = intake
        self._queries = queries
        self._spooled = spooled
        self._now = now
        self._post_problem: Callable[[Exception], web.StreamResponse]
        # What was answered, and from which summaries of the workers: the same objects make the same answer.
        self._answers: LRUCache[tuple[_Wish, str | None], tuple[list[Held], web.StreamResponse]] = LRUCache(
            maxsize=ANSWERS_MAX
        )

    def add_to(self, app: web.Application, edge: Edge) -> None:
        """Register the routes; each with and without a slash at its end, and those hot that most requests are."""
        for path, handler in (
            ("/analytics", self.summary),
            ("/analytics/perworker", self.per_worker),
            ("/analytics/allslices", self.all_slices),
        ):
            app.router.add_get(path, handler)
            app.router.add_get(path + "/", handler)
        hot = app[HOT] = HotRoutes()
        hot.add("GET", "/analytics", edge.hot("GET", "/analytics", self.summary))
        hot.add("POST", "/analytics", edge.hot("POST", "/analytics", self.post))
        hot.plain[b"GET /analytics"] = edge.plain("GET", "/analytics", self.plain_summary)
        hot.plain[b"POST /analytics"] = plain_post = edge.plain("POST", "/analytics", self.plain_post)
        self._post_problem = plain_post.problem
        app.router.add_post("/analytics", self.post)
        app.router.add_post("/analytics/", self.post)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Count one event, given in the query, as a form, as JSON, or in both query and body."""
        fields = _query(request)
        status = _NO_CONTENT if any(name == EVENT for name, _ in fields) else _ACCEPTED
        if request.can_read_body:
            body = await _body_fields(request)
            if body is not None:
                fields += body
                status = _ACCEPTED
        durability = await self._intake.accept(fields)
        return quick_answer(status, head=_TAKEN[durability])

    def plain_post(self, query: str, _: Head, send: Send) -> Coroutine[Any, Any, web.StreamResponse] | None:
        """Count one event, given in the query of a plain request: no task waits for it."""
        fields = read_urlencoded(query)
        status = _NO_CONTENT if any(name == EVENT for name, _ in fields) else _ACCEPTED
        waiter = self._intake.begin(fields)
        if waiter is None:
            return self._accepted(fields, status)
        waiter.add_done_callback(partial(self._tell, send, status))
        return None

    def _tell(self, send: Send, status: int, waiter: Waiter) -> None:
        try:
            answer = _TAKEN_ANSWERS[status, self._intake.durability(waiter.result())]
        except Exception as error:  # noqa: BLE001 - the request edge, as common/lane.py is: a callback's error reaches nobody
            answer = self._post_problem(error)
        send(answer)

    async def _accepted(self, fields: list[Field], status: int) -> web.StreamResponse:
        return _TAKEN_ANSWERS[status, await self._intake.accept(fields)]

    async def summary(self, request: web.Request) -> web.StreamResponse:
        """The summary of the slice of a time."""
        return await self._summary(self._wish(_query(request), request.headers.get("Accept", "")), request.headers)

    def plain_summary(self, query: str, head: Head, send: Send) -> Coroutine[Any, Any, web.StreamResponse] | None:
        """The same for a plain request: an answer that is still right is sent as it was."""
        wish = self._wish(read_urlencoded(query), head.accept)
        parts = None if self._spooled() else self._queries.fresh(wish.slice)
        if parts is None:
            return self._summary(wish)
        key = wish, self._config().compat
        known = self._answers.get(key)
        if known is None or len(known[0]) != len(parts) or not all(map(is_, known[0], parts)):
            summary = add(wish.slice, [held.summary for held in parts])
            known = self._answers[key] = parts, self._shown(summary, {}, wish)
        send(known[1])
        return None

    async def _summary(self, wish: _Wish, asker: Mapping[str, str] | None = None) -> web.StreamResponse:
        # Before the workers are asked: an event that is delivered meanwhile may be told twice, but is never left out.
        spooled = self._spooled()
        return self._shown(await self._queries.summary(wish.slice, partial=wish.partial, asker=asker), spooled, wish)

    def _shown(self, summary: Summary, spooled: Mapping[SliceId, int], wish: _Wish) -> web.StreamResponse:
        if wish.as_json:
            return _json(self._object(summary, spooled), complete=summary.complete)
        return _text(self._slice_lines(summary, spooled), complete=summary.complete)

    async def per_worker(self, request: web.Request) -> web.StreamResponse:
        """The same for each worker of its route, in route order."""
        wish = self._wish(_query(request), request.headers.get("Accept", ""))
        parts = await self._queries.per_worker(wish.slice, partial=wish.partial, asker=request.headers)
        complete = all(part.summary is not None and part.summary.complete for part in parts)
        if wish.as_json:
            shown = {"slice": wish.slice, "workers": [self._worker_json(part) for part in parts]}
            return _json(shown, complete=complete)
        return _text("".join(self._worker_text(wish.slice, part) for part in parts), complete=complete)

    async def all_slices(self, request: web.Request) -> web.StreamResponse:
        """The summaries of all slices that hold data, oldest first, up to a time."""
        wish = self._wish(_query(request), request.headers.get("Accept", ""))
        spooled = self._spooled()  # as above
        found, all_answered = await self._queries.all_slices(wish.slice, partial=wish.partial, asker=request.headers)
        complete = all_answered and all(summary.complete for summary in found)
        if wish.as_json:
            return _json({"slices": [self._object(summary, spooled) for summary in found]}, complete=complete)
        lines = (f"slice,{summary.slice}\n{self._slice_lines(summary, spooled)}" for summary in found)
        return _text("".join(lines), complete=complete)

    def _wish(self, fields: Iterable[Field], accept: str) -> _Wish:
        asked: dict[str, str] = {}
        for name, value in fields:
            if name not in (TIMESTAMP, "format", "partial"):
                continue
            if name in asked:
                message = "is given twice"
                raise Malformed(message, field=name)
            asked[name] = value
        clock = self._membership.clock
        at = parse_timestamp(asked[TIMESTAMP]) if TIMESTAMP in asked else self._now()
        return _Wish(
            slice=clock.slice_at(at),
            as_json=_wants_json(asked.get("format"), accept),
            partial=_one_of("partial", asked.get("partial", "false"), {"true": True, "false": False}),
        )

    def _object(self, summary: Summary, spooled: Mapping[SliceId, int]) -> dict[str, Any]:
        """A slice as the cluster knows it, and what this node has yet to deliver."""
        shown = to_json(summary, self._membership.clock)
        if events := spooled.get(summary.slice):
            shown["spooled"] = events
        return shown

    def _slice_lines(self, summary: Summary, spooled: Mapping[SliceId, int]) -> str:
        """The same as text."""
        events = spooled.get(summary.slice)
        return self._lines(summary) + (f"spooled,{events}\n" if events else "")

    def _lines(self, summary: Summary) -> str:
        # An older system's misspelling, which its clients look for.
        return to_text(summary, users_label="unqiue_users" if self._config().compat == "rt" else "unique_users")

    def _worker_text(self, slice_id: SliceId, part: WorkerSummary) -> str:
        lines = "" if part.summary is None else self._lines(part.summary)
        return f"slice,{slice_id}\nworker,{part.url or part.worker}\n{lines}"

    def _worker_json(self, part: WorkerSummary) -> dict[str, Any]:
        who = {"worker": part.worker, "url": part.url}
        if part.summary is None:
            return who | {"complete": False}
        return who | to_json(part.summary, self._membership.clock)


def _query(request: web.Request) -> list[Field]:
    """The fields of the query."""
    _, _, query = request.raw_path.partition("?")
    if "#" in query:
        # As most libraries have it the query ends there, which would make one user of a#1 and a#2.
        message = "in a query, write # as %23"
        raise Malformed(message)
    return read_urlencoded(query)


async def _body_fields(request: web.Request) -> list[Field] | None:
    """The fields of the body; None if it is empty."""
    body = await read_body(request)
    if not body:
        return None
    if request.content_type == JSON:
        return read_json(body)
    if request.content_type == FORM:
        if body.lstrip().startswith(b"{"):
            # What curl -d sends when nobody said otherwise; read as a form, every field would be missing.
            message = f"the body looks like JSON, but came as a form: send it with Content-Type: {JSON}"
            raise WrongMediaType(message)
        try:
            return read_urlencoded(body.decode())
        except UnicodeError:
            message = "the body is not UTF-8"
            raise Malformed(message) from None
    if request.content_type == MULTIPART:
        return read_multipart(body, request.headers["Content-Type"])
    message = f"send {FORM}, {MULTIPART} or {JSON}"
    raise WrongMediaType(message)


def _wants_json(wanted: str | None, accept: str) -> bool:
    if wanted is not None:
        return _one_of("format", wanted, {"json": True, "text": False})
    return JSON in accept


def _one_of(field: str, value: str, known: dict[str, bool]) -> bool:
    if value not in known:
        message = f"must be one of {', '.join(known)}"
        raise Malformed(message, field=field)
    return known[value]


def _text(text: str, *, complete: bool) -> web.StreamResponse:
    return quick_answer(_OK, body=text.encode(), head=_TEXT_HEADS[complete])


def _json(value: object, *, complete: bool) -> web.StreamResponse:
    return quick_answer(_OK, body=msgspec.json.encode(value), head=_JSON_HEADS[complete])


def _heads(content_type: str) -> dict[bool, str]:
    # An answer says whether it is complete in either form; the lines of the text form have no place for it.
    return {
        complete: header_lines({"Content-Type": content_type, **NO_STORE, "X-Complete": str(complete).lower()})
        for complete in (False, True)
    }


_TEXT_HEADS, _JSON_HEADS = _heads("text/plain; charset=utf-8"), _heads(JSON)
_TAKEN_ANSWERS = {
    (status, disk): quick_answer(status, head=header_lines({"X-Durability": disk}))
    for status in (_ACCEPTED, _NO_CONTENT)
    for disk in (WORKER, SPOOL)
}
_TAKEN = {disk: header_lines({"X-Durability": disk}) for disk in (WORKER, SPOOL)}
