"""The rim of both node types: problems, probes, bodies, tokens, and the life of a serving process."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from common import errors
from common.bodies import read_body
from common.edge import Edge
from common.errors import (
    ConfigRefused,
    DirectoryOwned,
    InputOutputFailed,
    NotTaken,
    PortInUse,
    RequestError,
    SliceClosed,
    TooSlow,
    Unauthorized,
    WireError,
)
from common.listener import Runner
from common.logs import Log, new_log
from common.metrics import Metrics
from common.problems import problem_response
from common.web import (
    Health,
    add_probes,
    read_arguments,
    require_token,
    run_process,
    serve,
)
from tests.support.events import CANARY
from tests.support.ports import PORTS

BODY_MAX = 1000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Place:
    """A served application, and what it says."""

    def __init__(self, port: int, log: io.StringIO, metrics: Metrics, session: aiohttp.ClientSession) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.port = port
        self.log = log
        self.metrics = metrics
        self.session = session

    async def ask(self, method: str, path: str, **ask: Any) -> tuple[aiohttp.ClientResponse, Any]:
        """The answer, and its body as JSON if it is that."""
        async with self.session.request(method, self.base + path, **ask) as response:
            body = await response.read()
        if "json" in response.content_type:
            return response, await response.json(content_type=None)
        return response, body.decode()

    async def raw(self, *lines: bytes) -> bytes:
        """The answer to bytes that need not be HTTP."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\r\n".join(lines))
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def served(*handlers: Handler, health: Health | None = None) -> AsyncIterator[Place]:
    """Handlers at ``/0``, ``/1``, ... behind the edge, with the probes."""
    written = io.StringIO()
    metrics = Metrics()
    app = web.Application(
        middlewares=[Edge(metrics=metrics, log=new_log("api-0", stream=written)).middleware], client_max_size=BODY_MAX
    )
    for number, handler in enumerate(handlers):
        app.router.add_post(f"/{number}", handler)
    add_probes(app, health=health or Health(), metrics=metrics)
    runner = Runner(app)
    port = PORTS.take()
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with aiohttp.ClientSession() as session:
            yield Place(port, written, metrics, session)
    finally:
        await runner.cleanup()
        PORTS.give_back(port)


def raising(error: BaseException) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        raise error

    return handler


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await read_body(request, seconds=0.1))


def all_request_errors(kind: type[RequestError] = RequestError) -> list[type[RequestError]]:
    found = [kind] if kind.__module__ == errors.__name__ else []
    return found + [one for below in kind.__subclasses__() for one in all_request_errors(below)]


@pytest.mark.parametrize("kind", all_request_errors())
async def test_each_error_is_a_problem_of_its_own_type(kind: type[RequestError]) -> None:
    """Type, title, status, detail and field, as RFC 9457 has them; 503 says when to come back."""
    async with served(raising(kind("what happened", field="timestamp"))) as place:
        response, body = await place.ask("POST", "/0")

    assert response.status == kind.status
    assert response.content_type == "application/problem+json"
    assert body.pop("request_id", None) == (response.headers["X-Request-Id"] if kind.status >= 500 else None)
    assert body == {
        "type": f"urn:tallyslice:problem:{kind.slug}",
        "title": kind.title,
        "status": int(kind.status),
        "detail": "timestamp: what happened",
        "field": "timestamp",
    }
    assert response.headers.get("Retry-After") == ("1" if response.status == 503 else None)
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if response.status == 401 else None)


def test_no_two_errors_share_a_type() -> None:
    slugs = [kind.slug for kind in all_request_errors() if kind is not errors.Contradicts]

    assert len(set(slugs)) == len(slugs) > 15


async def test_a_problem_without_field_has_none() -> None:
    response = problem_response(NotTaken("full", retry_after_seconds=7))

    assert b'"field"' not in response.body  # type: ignore[operator]
    assert b'"detail":"full"' in response.body  # type: ignore[operator]
    assert response.headers["Retry-After"] == "7"


async def test_bytes_that_are_not_of_the_protocol_are_the_callers_fault() -> None:
    async with served(raising(WireError("a batch names event types"))) as place:
        response, body = await place.ask("POST", "/0")

    assert response.status == 400
    assert body["detail"] == "a batch names event types"


async def test_a_defect_of_ours_is_500_and_tells_nobody_what_it_quotes() -> None:
    """Neither the client nor the log gets the message of an exception that is not ours."""
    async with served(raising(KeyError(CANARY)), raising(OSError(5, CANARY))) as place:
        first, body = await place.ask("POST", "/0")
        second, _ = await place.ask("POST", "/1")

    assert (first.status, second.status) == (500, 500)
    assert body["type"] == "urn:tallyslice:problem:internal"
    assert CANARY not in str(body) + place.log.getvalue()
    assert "KeyError at " in place.log.getvalue()
    assert "OSError (errno 5)" in place.log.getvalue()


async def test_what_is_not_there_is_404() -> None:
    async with served() as place:
        response, body = await place.ask("GET", f"/{CANARY}?user={CANARY}")
        shown = place.metrics.exposition().decode()

    assert response.status == 404
    assert body["type"] == "urn:tallyslice:problem:not-found"
    assert CANARY not in str(body) + shown
    assert 'route="unknown"' in shown


async def test_another_method_is_405_and_says_which_is_allowed() -> None:
    async with served(echo) as place:
        response, body = await place.ask("DELETE", "/0")
        await place.ask("PROPFIND", "/0")
        shown = place.metrics.exposition().decode()

    assert response.status == 405
    assert response.headers["Allow"] == "POST"
    assert body["type"] == "urn:tallyslice:problem:method-not-allowed"
    assert body["detail"] == "allowed here: POST"
    assert 'method="other"' in shown
    assert "PROPFIND" not in shown


async def test_any_other_http_error_of_the_library_is_a_problem_too() -> None:
    """Without the library's text, which may quote the request."""
    async with served(raising(web.HTTPGone(text=CANARY))) as place:
        response, body = await place.ask("POST", "/0")

    assert response.status == 410
    assert body == {
        "type": "urn:tallyslice:problem:http",
        "title": "The request cannot be served",
        "status": 410,
        "detail": "Gone",
    }


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_its_bound_is_413(*, chunked: bool) -> None:
    """Whether it says its length beforehand, or comes in chunks."""
    body = b"x" * (BODY_MAX + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    async with served(echo) as place:
        response, shown = await place.ask("POST", "/0", data=chunks() if chunked else body)

    assert response.status == 413
    assert shown["type"] == "urn:tallyslice:problem:too-large"


async def test_a_handler_that_reads_for_itself_is_held_to_the_same_bound() -> None:
    async def reads(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async with served(reads) as place:
        response, shown = await place.ask("POST", "/0", data=b"x" * (BODY_MAX + 1))

    assert (response.status, shown["type"]) == (413, "urn:tallyslice:problem:too-large")


async def test_a_body_that_does_not_arrive_is_408() -> None:
    async with served(echo) as place:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"POST /0 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        answer = await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:tallyslice:problem:too-slow" in answer


async def test_a_body_in_an_encoding_that_is_none_is_400() -> None:
    async with served(echo) as place:
        response, shown = await place.ask("POST", "/0", data=b"this is not gzip", headers={"Content-Encoding": "gzip"})

    assert (response.status, shown["type"]) == (400, "urn:tallyslice:problem:malformed")


HEAD = f"POST /0?user={CANARY}".encode()


@pytest.mark.parametrize(
    "lines",
    [
        (HEAD + b" BROKEN", b"", b""),
        (HEAD + b"x" * 9000 + b" HTTP/1.1", b"Host: x", b"", b""),
        (HEAD + b" HTTP/1.1", b"Host: x", f"Not a header {CANARY}".encode(), b"", b""),
        (HEAD + b" HTTP/1.1", b"Host: x", f"X-Name: {CANARY * 1000}".encode(), b"", b""),
        (HEAD + b"\x01 HTTP/1.1", b"Host: x", b"", b""),
        (HEAD + "ż HTTP/1.1".encode(), b"Host: x", b"", b""),
    ],
)
async def test_what_is_not_http_is_not_quoted(lines: tuple[bytes, ...]) -> None:
    """The library's own answer quotes the line that it cannot read, with the user's name in it."""
    async with served(echo) as place:
        answer = await place.raw(*lines)

    assert b" 400 " in answer.splitlines()[0]
    assert b"urn:tallyslice:problem:malformed" in answer
    assert b"written as %XX" in answer  # curl sends a URL as it was typed
    assert CANARY[:6].encode() not in answer
    assert CANARY not in place.log.getvalue()


async def test_what_fails_outside_of_the_edge_quotes_nothing_either() -> None:
    """Such as an answer that cannot be sent: the edge has left it already."""

    async def unprepared(_: web.Request) -> web.StreamResponse:
        return web.StreamResponse(status=200, headers={"X-Name": f"{CANARY}\r\n{CANARY}"})

    async with served(unprepared) as place:
        answer = await place.raw(b"POST /0 HTTP/1.1", b"Host: x", b"Connection: close", b"", b"")

    assert CANARY.encode() not in answer


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Basic dXNlcg==", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer wrong", 403),
        ("Bearer s\u00e9same", 403),
        ("Bearer sesame", 200),
        ("bearer  sesame ", 200),
    ],
)
async def test_the_token_opens_the_door(header: str | None, status: int) -> None:
    """None is asked for where none is configured; else 401 without one, 403 with another."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        require_token(request, "sesame")
        return web.Response()

    async def open_to_all(request: web.Request) -> web.StreamResponse:
        require_token(request, None)
        return web.Response()

    headers = {} if header is None else {"Authorization": header}
    async with served(guarded, open_to_all) as place:
        response, _ = await place.ask("POST", "/0", headers=headers)
        welcome, _ = await place.ask("POST", "/1", headers=headers)

    assert response.status == status
    assert welcome.status == 200


async def test_the_probes_tell_life_from_readiness() -> None:
    """``/livez`` is about the process, ``/readyz`` about traffic, ``/metrics`` shows the latter too."""
    speaking = ["waits for its workers"]
    health = Health(reasons=[lambda: speaking[0] if speaking else None, lambda: None])
    async with served(health=health) as place:
        live, _ = await place.ask("GET", "/livez")
        unready, why = await place.ask("GET", "/readyz")
        _, before = await place.ask("GET", "/metrics")
        speaking.clear()
        ready, _ = await place.ask("GET", "/readyz")
        _, after = await place.ask("GET", "/metrics")
        health.draining = True
        draining, last = await place.ask("GET", "/readyz")

    assert (live.status, unready.status, ready.status, draining.status) == (200, 503, 200, 503)
    assert (why, last) == ("waits for its workers\n", "draining\n")
    assert "tallyslice_ready 0.0" in before
    assert "tallyslice_ready 1.0" in after


# --- the life of a serving process


def an_app() -> web.Application:
    app = web.Application()
    add_probes(app, health=Health(), metrics=Metrics())
    return app


def a_log() -> Log:
    return new_log("api-0", stream=io.StringIO())


async def test_a_node_drains_before_it_leaves() -> None:
    """Told to stop, it is not ready any more, and still serves; a request under way is finished.

    Each answer is the last one of its connection and says so: no client sends another just as the node closes it.
    """
    health, stop, port = Health(), asyncio.Event(), PORTS.take()
    app = web.Application()
    add_probes(app, health=health, metrics=Metrics())
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.Response(text="finished")

    app.router.add_get("/slow", slow)
    node = asyncio.create_task(
        serve(app, url=f"http://127.0.0.1:{port}/analytics", health=health, log=a_log(), stop=stop)
    )
    async with aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str, str | None]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                return response.status, await response.text(), response.headers.get("Connection")

        async def first() -> tuple[int, str, str | None]:
            while True:
                try:
                    return await get("/readyz")
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)

        assert await first() == (200, "ok\n", None)
        under_way = asyncio.create_task(get("/slow"))
        await begun.wait()
        stop.set()
        while not health.draining:
            await asyncio.sleep(0)
        while_draining = await get("/readyz")
        go_on.set()
        answer = await under_way
        await node

    assert while_draining == (503, "draining\n", "close")
    assert answer == (200, "finished", "close")
    PORTS.give_back(port)


async def test_what_fails_in_the_loop_itself_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    """The loop would write the whole error to standard error; a callback that fails may quote anybody."""
    written, stop, port = io.StringIO(), asyncio.Event(), PORTS.take()
    log, health = new_log("api-0", stream=written), Health()

    def fail() -> None:
        raise ValueError(CANARY)

    node = asyncio.create_task(
        serve(an_app(), url=f"http://127.0.0.1:{port}/worker", health=health, log=log, stop=stop)
    )
    asyncio.get_running_loop().call_later(0.05, fail)
    asyncio.get_running_loop().call_later(0.1, stop.set)
    await node

    assert "event=loop_failed" in written.getvalue()
    assert "ValueError" in written.getvalue()
    assert CANARY not in written.getvalue() + caplog.text
    PORTS.give_back(port)


async def test_a_port_in_use_is_said_so() -> None:
    port = PORTS.take()
    other = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)

    with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
        await serve(an_app(), url=f"http://127.0.0.1:{port}/worker", health=Health(), log=a_log(), stop=asyncio.Event())

    other.close()
    await other.wait_closed()
    PORTS.give_back(port)


async def test_an_address_that_is_not_ours_is_another_failure() -> None:
    """192.0.2.1 is reserved for documentation: no machine has it."""
    with pytest.raises(InputOutputFailed, match="errno"):
        await serve(an_app(), url="http://192.0.2.1:9000/worker", health=Health(), log=a_log(), stop=asyncio.Event())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_well(number: signal.Signals) -> None:
    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()

    assert run_process(main) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PortInUse("in use"), 69),
        (InputOutputFailed("no"), 70),
        (DirectoryOwned("owned"), 75),
        (ConfigRefused(["routing: is missing", "worker-nodes: is missing"]), 78),
    ],
)
def test_a_process_that_cannot_go_on_says_why(
    error: errors.ExitError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every problem on a line of its own, and the exit code of its kind."""

    async def main(_: asyncio.Event) -> None:
        raise error

    assert run_process(main) == code
    assert capsys.readouterr().err == "".join(f"tallyslice: {line}\n" for line in str(error).splitlines())


def test_the_arguments_have_defaults() -> None:
    found = read_arguments("api", ["1"])

    assert (found.node, found.cluster_file, found.data) == ("1", Path("etc/cluster.json"), Path("data/api-1"))


def test_the_arguments_can_be_given() -> None:
    found = read_arguments("worker", ["2", "here.json", "--data", "there"])

    assert (found.node, found.cluster_file, found.data) == ("2", Path("here.json"), Path("there"))


@pytest.mark.parametrize("arguments", [[], ["0", "file", "more"], ["0", "--unknown"]])
def test_other_arguments_are_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read_arguments("worker", arguments)

    assert left.value.code == 64
    assert "usage: python -m worker_node" in capsys.readouterr().err


def test_statuses_are_those_of_the_contract() -> None:
    """A sample of the tree against the contract's table."""
    assert (TooSlow.status, SliceClosed.status, Unauthorized.status) == (
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.UNAUTHORIZED,
    )
