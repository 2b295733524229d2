"""The rim that both node types share: problem answers, health, metrics, and the life of a serving process.

::

    start -> parts enter -> listen -> ... -> SIGTERM -> /readyz 503, still serving for a second, each answer the last
          of its connection -> last call -> stop listening -> handlers finish -> parts leave -> exit 0
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import hmac
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import uvloop
from aiohttp import web

from common.config import listen_address
from common.errors import (
    EXIT_USAGE,
    ExitError,
    Forbidden,
    InputOutputFailed,
    PortInUse,
    Unauthorized,
)
from common.last_call import last_call
from common.listener import METRICS, Runner, raise_descriptors
from common.logs import FORMS, Form, Log
from common.supervisor import LEAVING, LISTENING, tell_supervisor

if TYPE_CHECKING:
    import ssl

    from common.metrics import Metrics

JSON_TYPE = "application/json"

BACKLOG = 1024  # connections that wait to be accepted
DRAIN_SECONDS = 1.0  # between "not ready" and no more listening: load balancers ask at least once a second
PROCESSES_MAX = 64  # of a node: more cores than one machine's share of a cluster has
CLOSE_SECONDS = 2.5  # for the parts to leave

Reason = Callable[[], str | None]
Gather = Callable[[web.Request, bytes], Awaitable[bytes]]


@dataclass(slots=True)
class Health:
    """Whether the node wants traffic: not while it drains, nor while one of the reasons speaks."""

    reasons: list[Reason] = field(default_factory=list)
    draining: bool = False

    def problems(self) -> list[str]:
        """Why the node is not ready; empty if it is."""
        found = [reason() for reason in self.reasons]
        return ["draining"] * self.draining + [text for text in found if text]


def json_response(value: Any, *, status: HTTPStatus = HTTPStatus.OK) -> web.Response:  # noqa: ANN401 - whatever msgspec can encode
    """A value as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON_TYPE)


def require_token(request: web.Request, token: str | None) -> None:
    """Let the request through if no token is configured, or it brings the right one.

    Raises:
        Unauthorized: it brings none.
        Forbidden: it brings another.
    """
    if token is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        message = "send Authorization: Bearer and the cluster's internal token"
        raise Unauthorized(message)
    if not hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode()):
        message = "the token is not the cluster's internal token"
        raise Forbidden(message)


def add_probes(app: web.Application, *, health: Health, metrics: Metrics, gather: Gather | None = None) -> None:
    """``/livez``: the process runs. ``/readyz``: it wants traffic. ``/metrics``: Prometheus.

    Args:
        app: gets the routes.
        health: whether it wants traffic.
        metrics: those of this process.
        gather: makes the node's metrics of this process's, where it has several.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        problems = health.problems()
        if not problems:
            return web.Response(text="ok\n")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="".join(f"{text}\n" for text in problems))

    async def show_metrics(request: web.Request) -> web.Response:
        metrics.ready.set(not health.problems())
        body = metrics.exposition()
        if gather is not None:
            body = await gather(request, body)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app[METRICS] = metrics
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)


async def serve(
    app: web.Application,
    *,
    url: str,
    health: Health,
    log: Log,
    stop: asyncio.Event,
    tls: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Serve where the URL says until ``stop`` is set, then drain and leave; with TLS if there is a context for it.

    Raises:
        PortInUse: somebody else listens there.
        InputOutputFailed: listening failed for another reason.
        ExitError: whatever the parts of the app raise when they enter.
    """
    tell_loop_failures(log)
    runner = Runner(app, tls=tls)
    host, port = listen_address(url)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as error:
            message = f"cannot listen on {host}:{port}"
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"{message}: the port is in use") from error
            raise InputOutputFailed(f"{message}: errno {error.errno}") from error
        log.info("listening", host=host, port=port)
        tell_supervisor(LISTENING)
        await stop.wait()
        health.draining = True
        runner.leave()
        log.info("draining")
        tell_supervisor(LEAVING)
        await asyncio.sleep(DRAIN_SECONDS)
        await last_call(runner)
    finally:
        await runner.cleanup()
    log.info("stopped")


def tell_loop_failures(log: Log) -> None:
    """Say in our own words what fails in the running loop itself.

    Its own handler would write what the error quotes, and the callback's arguments, to standard error.
    """
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: log.error("loop_failed", error=context.get("exception"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeArguments:
    """What a node was started with."""

    node: str
    cluster_file: Path
    data: Path
    processes: int = 1
    log_form: Form = "logfmt"
    share: str | None = None  # of an API node of several processes: what one of them is told by its parent


def read_arguments(kind: str, arguments: Sequence[str] | None = None) -> NodeArguments:
    """Read ``ID [CLUSTER_FILE] [--data DIR]``, and ``[--processes N]`` of an API node.

    Leaves the process with 64 if they are something else.

    Args:
        kind: ``api`` or ``worker``: the default data folder is ``data/KIND-ID``.
        arguments: those of the process if None.
    """
    parser = _Parser(prog=f"python -m {kind}_node", description=f"Run one {kind} node of a Tallyslice cluster.")
    parser.add_argument("node", metavar="ID", help=f"which of the cluster file's {kind} nodes this is")
    parser.add_argument(
        "cluster_file", metavar="CLUSTER_FILE", nargs="?", type=Path, default=Path("etc/cluster.json"),
        help="the cluster file (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", type=Path, help=f"the data folder (default: data/{kind}-ID)")
    parser.add_argument(
        "--log-format", dest="log_form", choices=FORMS, default=FORMS[0],
        help="how lines of the log are written (default: %(default)s)",
    )  # fmt: skip
    if kind == "api":
        parser.add_argument(
            "--processes", metavar="N", type=_processes, default=1,
            help=f"that many processes behind the one port, 1 to {PROCESSES_MAX} (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument("--share", help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    return NodeArguments(
        node=found.node,
        cluster_file=found.cluster_file,
        log_form=found.log_form,
        data=found.data or Path("data") / f"{kind}-{found.node}",
        processes=found.processes if kind == "api" else 1,
        share=found.share if kind == "api" else None,
    )


def _processes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= PROCESSES_MAX):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {PROCESSES_MAX}")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def run_process(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run a node's main coroutine to its end; SIGTERM and SIGINT set the event that it is given.

    Returns:
        The exit code: 0, or that of the ExitError that ended it (its message goes to standard error).
    """

    async def guarded() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    raise_descriptors()
    try:
        uvloop.run(guarded())
    except ExitError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"tallyslice: {line}\n")
        return error.exit_code
    return 0
