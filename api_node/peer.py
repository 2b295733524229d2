"""Calls from an API node to a worker over HTTP: the one seam to the outside on this side of the cluster.

Every call has a deadline, carries the internal token, and ends in one of four ways: the typed answer, ``PeerAway``,
``PeerRefuses``, or ``WireError``. What it says then is read by people: it names who was asked, and no library's class.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from api_node.exchange import NoConnection, TooLong
from common import wire
from common.errors import PeerAway, PeerError, PeerRefuses, WireError
from common.request_ids import HEADER, draw_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api_node.exchange import Exchange
    from common.tracing import Tracing

T = TypeVar("T")

# Of an answer: ten times a page of summaries with a dozen event types each.
ANSWER_BYTES_MAX = 64 << 20

# What a node answers while it is starting, stopping or overloaded: the same as being away.
_AWAY = frozenset(
    {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT}
)


class _Problem(msgspec.Struct):
    type: str = ""
    detail: str = ""


class Peer:
    """One worker, as reached over HTTP. ``url`` follows the config.

    Args:
        session: carries the calls; not closed here.
        exchange: carries those in msgpack, if there is one: the many that bring events and questions.
        url: where it is.
        token: the internal token, if there is one.
        name: what people call it, if the URL does not say enough.
        tls: for a connection to an https URL; None: as the library has it.
        tracing: lets workers know the current span; None: there is none.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        url: str,
        token: Callable[[], str | None],
        name: str | None = None,
        exchange: Exchange | None = None,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.url = url
        self._name = name
        self._session = session
        self._exchange = exchange
        self._token = token
        self._tls = tls

    def __str__(self) -> str:
        """In words: ``worker 1 (http://10.0.0.7:9000/worker)``."""
        return self.url if self._name is None else f"{self._name} ({self.url})"

    async def post_packed(
        self, path: str, message: msgspec.Struct, kind: type[T], *, seconds: float, request_id: str | None = None
    ) -> T:
        """POST a message as msgpack, and read the answer as msgpack; in the worker's log under an id, if it fails."""
        name = request_id or draw_id()
        try:
            body = await self._call("POST", path, wire.encode(message), wire.MEDIA_TYPE, seconds, more={HEADER: name})
        except PeerError as error:
            error.request_id = name
            raise
        return wire.decode(body, kind)

    async def post_json(self, path: str, message: msgspec.Struct, kind: type[T], *, seconds: float) -> T:
        """POST a message as JSON, and read the answer as JSON."""
        return _from_json(
            await self._call("POST", path, msgspec.json.encode(message), "application/json", seconds), kind
        )

    async def get_json(self, path: str, kind: type[T], *, seconds: float) -> T:
        """GET, and read the answer as JSON."""
        return _from_json(await self._call("GET", path, None, None, seconds), kind)

    async def get(self, path: str, *, seconds: float) -> bytes:
        """GET, and read the answer as it is."""
        return await self._call("GET", path, None, None, seconds)

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        content_type: str | None,
        seconds: float,
        *,
        more: Mapping[str, str] = {},
    ) -> bytes:
        headers = {**more} if content_type is None else {"Content-Type": content_type, **more}
        if (token := self._token()) is not None:
            headers["Authorization"] = f"Bearer {token}"
        if self._tracing is not None:
            self._tracing.inject(headers)
        try:
            async with asyncio.timeout(seconds):
                if self._exchange is not None and body is not None and content_type == wire.MEDIA_TYPE:
                    status, content = await self._exchange.post(self.url + path, body, headers, tls=self._tls())
                else:
                    status, content = await self._ask(method, self.url + path, body, headers)
        except TimeoutError as error:
            message = f"{self} did not answer within {seconds:g} s"
            raise PeerAway(message) from error
        except TooLong as error:
            raise WireError(f"{self} answers with more than {ANSWER_BYTES_MAX} bytes") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"{self} cannot be reached: {why_silent(error)}"
            raise PeerAway(message) from error
        if status == HTTPStatus.OK:
            return content
        problem = _problem(content)
        message = f"{self} answers {status}: {problem.detail}"
        refusal: PeerError = PeerRefuses(message, slug=problem.type.rpartition(":")[2])
        if status in _AWAY:
            refusal = PeerAway(message)
        refusal.answered = True
        raise refusal

    async def _ask(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        async with self._session.request(
            method, url, data=body, headers=headers, allow_redirects=False, ssl=self._tls() or True
        ) as response:
            return response.status, await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > ANSWER_BYTES_MAX:
                message = f"{self} answers with more than {ANSWER_BYTES_MAX} bytes"
                raise WireError(message)
            pieces.append(piece)
        return b"".join(pieces)


def why_silent(error: Exception) -> str:
    """Why a call got no answer, in words."""
    if isinstance(error, (ssl.SSLError, aiohttp.ClientSSLError)):
        return _why_not_secure(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return "its name cannot be resolved"
    if isinstance(error, (aiohttp.ClientConnectorError, NoConnection)):
        return "cannot connect"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, OSError)):
        return "the connection ended before the answer did"
    return "what answers there is not HTTP"


def _why_not_secure(error: Exception) -> str:
    reason = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {reason.verify_message}"
    return "no TLS connection can be made: it listens without TLS, or wants a certificate that we do not show"


def _from_json(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        message = f"not a valid {kind.__name__.lower()}: {error}"
        raise WireError(message) from None


def _problem(content: bytes) -> _Problem:
    try:
        return msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, UnicodeError):
        return _Problem(detail="(no explanation)")
