"""The worker's HTTP routes: bytes in, calls to the parts, bytes out. No decision about counting is made here.

::

    POST /worker/batches            Envelope -> Reply             msgpack
    POST /worker/summaries          Question -> Answer            msgpack
    GET  /worker/identity           -> Identity                   JSON, as all below
    POST /worker/join               Join -> Identity
    POST /worker/lost               LostSlices -> Identity        msgpack
    POST /worker/close              CloseSlice -> ClosedSlice
    POST /worker/routes             RoutesQuestion -> KnownRoutes msgpack
    GET  /worker/registry           -> RegistryState              404 where the registry is not
    POST /worker/registry/pins      Pins -> RegistryState
    POST /worker/registry/workers   PinWorker -> RegistryState
    POST /worker/registry/claims    Claim -> Settled
    POST /worker/registry/replace   ReplaceWorker -> RegistryState
    POST /worker/registry/routes    RoutesQuestion -> KnownRoutes msgpack
    POST /worker/registry/rebuild   Rebuild -> RegistryState      msgpack
    GET  /worker?slice=S            -> the slice, as text or JSON; /workers too
    POST /worker?slice=S&user=K&T   counts one event of type T without a number, for debugging
    GET  /worker/slices             -> {"slices": [...]}
    GET  /worker/status             -> how this worker is, for `tallyslice status`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import msgspec
from aiohttp import web

from common.bodies import read_body
from common.errors import Contradicts, Malformed, NoAnswer, NotHere, WrongMediaType
from common.events import is_event_type, read_urlencoded
from common.hot import HOT, HotRoutes, header_lines, quick_answer
from common.slices import SliceId, format_instant
from common.summaries import Summary, to_json, to_text
from common.web import json_response, require_token
from common.wire import (
    MEDIA_TYPE,
    QUESTION_SLICES_MAX,
    ROUTES_PAGE_MAX,
    SLICE_MAX,
    SLICE_MIN,
    Answer,
    Batch,
    Claim,
    ClosedSlice,
    CloseSlice,
    Envelope,
    Join,
    KnownRoutes,
    LostSlices,
    Outcome,
    Pins,
    PinWorker,
    Question,
    Rebuild,
    Receipt,
    ReplaceWorker,
    Reply,
    RoutesQuestion,
    SettledRoute,
    decode,
    decode_envelope,
    encode,
)
from worker_node.receiver import NumberedBatch, address
from worker_node.room import Load

if TYPE_CHECKING:
    from common.cluster_watch import ClusterWatch
    from common.config import ClusterConfig
    from common.edge import Edge
    from common.routing import WorkerId
    from worker_node.closing import Closing
    from worker_node.holdings import Holdings
    from worker_node.membership import Membership
    from worker_node.node_metrics import WorkerMetrics
    from worker_node.registry import Registry, RegistryThread
    from worker_node.space import Space
    from worker_node.totals import Totals
    from worker_node.writer import Writer

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_SLICE = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_USER_KEY = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
SLICES_TOLD_MAX = 1_000  # of those that are quarantined: one is too many
_COMPAT_LABEL = "unqiue_users"  # sic: what the older system's clients expect


class Handlers:
    """The routes, and the parts that they call."""

    def __init__(
        self,
        *,
        worker: WorkerId,
        membership: Membership,
        writer: Writer,
        holdings: Holdings,
        totals: Totals,
        registry: RegistryThread,
        closing: Closing,
        space: Space,
        watch: ClusterWatch,
        metrics: WorkerMetrics,
        config: Callable[[], ClusterConfig],
        token: Callable[[], str | None],
    ) -> None:
        self._worker = worker
        self._membership = membership
        self._writer = writer
        self._holdings = holdings
        self._totals = totals
        self._registry = registry
        self._closing = closing
        self._space = space
        self._watch = watch
        self._metrics = metrics
        self._config = config
        self._token = token

    def add_to(self, app: web.Application, edge: Edge) -> None:
        """Add the routes; those hot that events and questions come by."""
        hot = app[HOT] = HotRoutes()
        hot.add("POST", "/worker/batches", edge.hot("POST", "/worker/batches", self.batches))
        hot.add("POST", "/worker/summaries", edge.hot("POST", "/worker/summaries", self.summaries))
        app.router.add_post("/worker/batches", self.batches)
        app.router.add_post("/worker/summaries", self.summaries)
        app.router.add_get("/worker/identity", self.identity)
        app.router.add_post("/worker/join", self.join)
        app.router.add_post("/worker/lost", self.lost)
        app.router.add_post("/worker/close", self.close)
        app.router.add_post("/worker/routes", self.routes)
        app.router.add_get("/worker/registry", self.registry)
        app.router.add_post("/worker/registry/pins", self.pin)
        app.router.add_post("/worker/registry/workers", self.pin_worker)
        app.router.add_post("/worker/registry/claims", self.claim)
        app.router.add_post("/worker/registry/replace", self.replace_worker)
        app.router.add_post("/worker/registry/routes", self.registry_routes)
        app.router.add_post("/worker/registry/rebuild", self.rebuild)
        app.router.add_get("/worker/slices", self.slices)
        app.router.add_get("/worker/status", self.status)
        for path in ("/worker", "/workers"):
            app.router.add_get(path, self.show)
            app.router.add_post(path, self.count)

    # Between nodes, in msgpack.

    async def batches(self, request: web.Request) -> web.StreamResponse:
        """Take numbered batches; the answer has a receipt for each."""
        body = await self._posted(request, MEDIA_TYPE)
        envelope, batches = self._decoded(body)
        refusal = self._membership.refusal(envelope.cluster, envelope.worker)
        if refusal is None:
            receipts = await self._receive(envelope, batches, len(body))
        else:
            receipts = [_refused(batch, refusal, self._membership.explain(refusal)) for batch in batches]
        self._metrics.answered(zip(receipts, (len(batch.kinds) for batch in batches), strict=True))
        return _packed(Reply(worker=self._membership.uuid, claims=self._totals.claims, receipts=tuple(receipts)))

    def _decoded(self, body: bytes) -> tuple[Envelope, tuple[Batch, ...]]:
        return decode_envelope(body)

    async def _receive(self, envelope: Envelope, batches: Sequence[Batch], body_bytes: int) -> list[Receipt]:
        refused: dict[int, Receipt] = {}

        def items() -> Iterator[NumberedBatch]:
            for at, (batch, encoded) in enumerate(zip(batches, envelope.batches, strict=True)):
                one = address(self._worker, envelope, batch, encoded)
                if isinstance(one, NumberedBatch):
                    yield one
                else:
                    refused[at] = _refused(batch, one.outcome, one.detail)

        # The writer asks for them once it has room: split off, the keys take several times what they take in the body.
        load = Load(sum(len(batch.kinds) for batch in batches), body_bytes)
        taken = iter(await self._writer.receive(items(), load=load, claims=envelope.claims))
        return [refused.get(at) or next(taken) for at in range(len(batches))]

    async def summaries(self, request: web.Request) -> web.StreamResponse:
        """Answer for many slices at once."""
        question = decode(await self._posted(request, MEDIA_TYPE), Question)
        self._membership.require(question.cluster, question.worker)
        if self._space.problem() is None:  # else the question is worth more than the number
            await self._writer.note_claims(question.claims)
        if question.slices is None:
            asked = self._holdings.between(question.after, question.until)
        else:
            asked = sorted(set(question.slices))
        found, damaged = await self._writer.look(asked[:QUESTION_SLICES_MAX])
        answer = Answer(
            worker=self._membership.uuid,
            claims=self._totals.claims,
            held=tuple(found[slice_id] for slice_id in sorted(found)),
            more=len(asked) > QUESTION_SLICES_MAX,
            unreadable=tuple(damaged),
        )
        return _packed(answer)

    # Between nodes, in JSON.

    async def identity(self, _: web.Request) -> web.Response:
        """Say who this worker is."""
        return json_response(self._membership.identity())

    async def join(self, request: web.Request) -> web.Response:
        """Join a cluster."""
        return json_response(await self._membership.join(await self._message(request, Join)))

    async def registry(self, _: web.Request) -> web.Response:
        """Show what the registry has settled."""
        return json_response(await self._ask(lambda registry: registry.state()))

    async def pin(self, request: web.Request) -> web.Response:
        """Propose the cluster's constants."""
        pins = await self._message(request, Pins)

        def question(registry: Registry) -> msgspec.Struct:
            if registry.pins is None:
                self._membership.check_first_pins(pins)
            return registry.pin(pins)

        return json_response(await self._ask(question))

    async def pin_worker(self, request: web.Request) -> web.Response:
        """Propose a worker's data directory."""
        pin = await self._message(request, PinWorker)
        return json_response(await self._ask(lambda registry: registry.pin_worker(pin)))

    async def claim(self, request: web.Request) -> web.Response:
        """Propose routes."""
        claim = await self._message(request, Claim)
        if any(claim.routes.values()):  # else it is a question, and writes nothing
            self._space.require()
        door, known = self._closing.door(), self._totals.claims
        settled = await self._ask(lambda registry: registry.claim(claim, known=known, door=door))
        # Kept here too before anybody else can know of it: so a registry file that is set back alone is found out.
        await self._writer.note_claims(settled.claims)
        return json_response(settled)

    async def replace_worker(self, request: web.Request) -> web.Response:
        """Pin another data directory of a worker, in place of a lost one."""
        replacement = await self._message(request, ReplaceWorker)
        known = self._totals.claims
        return json_response(await self._ask(lambda registry: registry.replace_worker(replacement, known=known)))

    # For `tallyslice registry`.

    async def routes(self, request: web.Request) -> web.StreamResponse:
        """Tell the routes of all slices held here, and of those that the directory before this one held."""
        question = decode(await self._posted(request, MEDIA_TYPE), RoutesQuestion)
        if question.cluster is not None:
            self._membership.require(question.cluster, self._membership.uuid)
            await self._writer.note_claims(question.claims)
        asked = self._holdings.between(question.after, None)
        page = asked[:ROUTES_PAGE_MAX]
        found, damaged = await self._writer.look(page)
        identity = self._membership.identity()
        answer = KnownRoutes(
            cluster=identity.cluster,
            claims=identity.claims,
            pins=identity.pins,
            routes=tuple(
                SettledRoute(slice=at, route=found[at].route, number=0)
                for at in page
                if at in found and found[at].route
            ),
            more=len(asked) > len(page),
            # Of a file that was given up the route is not known either.
            unreadable=tuple(sorted({*damaged, *(at for at in found if not found[at].route)})),
        )
        return _packed(answer)

    async def lost(self, request: web.Request) -> web.StreamResponse:
        """Learn which slices the data directory before this one held."""
        lost = decode(await self._posted(request, MEDIA_TYPE), LostSlices)
        return _packed(await self._membership.lose(lost))

    async def close(self, request: web.Request) -> web.Response:
        """Close a slice that has ended, for good: for ``tallyslice close``."""
        message = await self._message(request, CloseSlice)
        self._membership.require(message.cluster, message.worker)
        if self._worker not in message.route:
            raise Contradicts(f"the route {', '.join(message.route)} does not name this worker")
        if not SLICE_MIN <= message.slice <= SLICE_MAX:
            raise Malformed("a slice is an int64", field="slice")
        self._closing.require_ended(message.slice)
        position = message.route.index(self._worker)
        held, was_closed = await self._writer.close_slice(message.slice, route=message.route, position=position)
        summary = held.summary
        return json_response(
            ClosedSlice(
                slice=message.slice,
                was_closed=was_closed,
                users=summary.users,
                counts=dict(summary.counts),
                complete=summary.complete,
            )
        )

    async def registry_routes(self, request: web.Request) -> web.StreamResponse:
        """Tell all routes that are settled at the registry."""
        question = decode(await self._posted(request, MEDIA_TYPE), RoutesQuestion)
        return _packed(await self._ask(lambda registry: registry.routes(question.after)))

    async def rebuild(self, request: web.Request) -> web.StreamResponse:
        """Rebuild the registry from what everybody together knows."""
        rebuild = decode(await self._posted(request, MEDIA_TYPE), Rebuild)
        self._membership.check_rebuild(rebuild)
        # Before the registry is looked at: whatever is settled in the meantime is in its file.
        known = self._totals.claims
        return _packed(await self._ask(lambda registry: registry.rebuild(rebuild, known=known)))

    # For people.

    async def show(self, request: web.Request) -> web.Response:
        """Show what this worker holds of a slice."""
        fields = _fields(request)
        slice_id = _slice(fields)
        found, damaged = await self._writer.look([slice_id])
        if damaged:
            raise NoAnswer(f"the file of slice {slice_id} is damaged, or being verified")
        held = found.get(slice_id)
        return self._shown(request, fields, Summary(slice=slice_id) if held is None else held.summary)

    async def count(self, request: web.Request) -> web.Response:
        """Count one event without a number, for debugging: a repeat counts again."""
        require_token(request, self._token())
        fields = _fields(request)
        slice_id, user_key = _slice(fields), _user_key(fields)
        event_type = _type(fields, self._config().event_types.flags)
        held = await self._writer.count(slice_id, user_key, event_type)
        return self._shown(request, fields, held.summary, status=HTTPStatus.ACCEPTED)

    async def slices(self, _: web.Request) -> web.Response:
        """Name the slices that hold data here."""
        return json_response({"slices": self._holdings.between(None, None)})

    async def status(self, _: web.Request) -> web.Response:
        """Tell how this worker is."""
        held, refusal = self._holdings, self._watch.refusal
        verifying = len(self._writer.suspects)
        return json_response(
            {
                "version": self._config().version,
                "refusal": None if refusal is None else {"reasons": refusal.reasons, "at": format_instant(refusal.at)},
                "slices": {
                    "open": held.open_count - verifying,
                    "verifying": verifying,
                    "closed": len(held) - held.open_count - held.quarantined_count,
                    "quarantined": held.quarantined(SLICES_TOLD_MAX),
                },
                "waiting_events": self._writer.waiting.events,
                "free_bytes": self._space.free_bytes,
            }
        )

    # What they share.

    async def _posted(self, request: web.Request, media_type: str) -> bytes:
        require_token(request, self._token())
        if request.content_type != media_type:
            raise WrongMediaType(f"send {media_type}")
        return await read_body(request)

    async def _message(self, request: web.Request, kind: type[T]) -> T:
        body = await self._posted(request, "application/json")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            # msgspec names the place and the types, never the value.
            raise Malformed(f"not a valid {kind.__name__}: {error}") from None

    async def _ask(self, question: Callable[[Registry], S]) -> S:
        if not self._membership.hosts_registry(self._config()):
            raise NotHere("this worker does not host the registry")
        return await self._registry.ask(partial(self._ask_ours, question))

    def _ask_ours(self, question: Callable[[Registry], S], registry: Registry) -> S:
        self._membership.check_registry(registry.pins)
        return question(registry)

    def _shown(
        self,
        request: web.Request,
        fields: dict[str, str],
        summary: Summary,
        *,
        status: HTTPStatus = HTTPStatus.OK,
    ) -> web.Response:
        if fields.get("format") == "json" or "application/json" in request.headers.get("Accept", ""):
            clock = self._membership.clock
            if clock is None:
                raise NoAnswer("this worker has joined no cluster yet, so it does not know when a slice begins")
            return json_response(to_json(summary, clock), status=status)
        label = _COMPAT_LABEL if self._config().compat == "rt" else "unique_users"
        return web.Response(status=status, text=to_text(summary, users_label=label))


def _packed(message: msgspec.Struct) -> web.StreamResponse:
    return quick_answer(HTTPStatus.OK, body=encode(message), head=_PACKED_HEAD)


_PACKED_HEAD = header_lines({"Content-Type": MEDIA_TYPE})


def _refused(batch: Batch, outcome: Outcome, detail: str) -> Receipt:
    return Receipt(slice=batch.slice, seq=batch.seq, outcome=outcome, detail=detail)


def _fields(request: web.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in read_urlencoded(request.rel_url.raw_query_string):
        if name in ("slice", "user") and name in fields:
            raise Malformed("is given twice", field=name)
        fields[name] = value
    return fields


def _slice(fields: dict[str, str]) -> SliceId:
    text = fields.get("slice")
    if text is None:
        raise Malformed("is missing", field="slice")
    if not _SLICE.fullmatch(text) or not SLICE_MIN <= int(text) <= SLICE_MAX:
        raise Malformed("must be a whole number, an int64", field="slice")
    return SliceId(int(text))


def _user_key(fields: dict[str, str]) -> bytes:
    text = fields.get("user")
    if text is None:
        raise Malformed("is missing", field="user")
    if not _USER_KEY.fullmatch(text):
        raise Malformed("must be a user key: 32 hex digits", field="user")
    return bytes.fromhex(text)


def _type(fields: dict[str, str], flags: frozenset[str]) -> str:
    named = [name for name in fields if name in flags]
    if "event" in fields:
        named.append(fields["event"])
    if len(named) != 1 or not is_event_type(named[0]):
        raise Malformed("exactly one event type is needed", field="event")
    return named[0]
