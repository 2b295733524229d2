"""Traces of a cluster, as a collector gets them: one trace from a client's request to a worker's commit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.cluster import FIRST
from tests.support.events import CANARY
from tests.support.nodes import Nodes
from tests.support.patience import eventually
from tests.support.ports import PORTS

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED_FOR = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
NOT_ASKED_FOR = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


class Collector:
    """Keeps the spans that it is sent, by service and name."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/traces"
        self.bodies: list[bytes] = []
        self.spans: list[tuple[str, Any]] = []

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(named["service.name"], span) for span in scope.spans]
        return web.Response()

    def named(self, service: str, name: str) -> list[Any]:
        return [span for of, span in self.spans if (of, span.name) == (service, name)]


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    port = PORTS.take()
    found = Collector(port)
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield found
    finally:
        await runner.cleanup()
        PORTS.give_back(port)


async def traced(tmp_path: Path, found: Collector, *, ratio: float = 0.0, **ask: Any) -> None:
    """A cluster that is asked for an event and a question, and has sent its spans when it is gone."""
    tracing = {"endpoint": found.url, "sample-ratio": ratio}
    async with Nodes(tmp_path, workers=1, tracing=tracing) as nodes:
        clicked = await nodes.post(f"timestamp={FIRST}&user={CANARY}-1&click&id=1", **ask)
        asked = await nodes.get(f"?timestamp={FIRST}", **ask)
        body = f'{{"timestamp": {FIRST}, "user": "{CANARY}-2", "event": "click", "id": "2"}}\n'
        more = {"Content-Type": "application/x-ndjson", **ask.get("headers", {})}
        bulk = await nodes.ask("POST", f"{nodes.api['0'].node.base}/events", body=body, headers=more)
        assert (clicked.status, asked.status, bulk.status) == (202, 200, 202)


async def test_an_event_is_one_trace_from_its_client_to_the_commit(tmp_path: Path) -> None:
    """Its request asks for it; every span is in that trace, below the one before; none names a user."""
    async with collector() as found:
        await traced(tmp_path, found, headers=ASKED_FOR)

    assert {span.trace_id.hex() for _, span in found.spans} == {TRACE}
    (request,) = found.named("tallyslice-api", "POST /analytics")
    (bulk,) = found.named("tallyslice-api", "POST /events")
    delivered = {span.parent_span_id: span for span in found.named("tallyslice-api", "deliver")}
    assert request.parent_span_id.hex() == PARENT
    assert delivered.keys() == {request.span_id, bulk.span_id}
    taken = {span.parent_span_id: span for span in found.named("tallyslice-worker", "POST /worker/batches")}
    assert taken.keys() == {span.span_id for span in delivered.values()}
    for name in ("decode", "commit"):
        steps = found.named("tallyslice-worker", name)
        assert {span.parent_span_id for span in steps} == {span.span_id for span in taken.values()}
    (question,) = found.named("tallyslice-api", "GET /analytics")
    (answered,) = found.named("tallyslice-worker", "POST /worker/summaries")
    assert answered.parent_span_id == question.span_id
    assert not any(CANARY.encode() in body or b"timestamp=" in body for body in found.bodies)


async def test_requests_are_sampled_by_the_ratio(tmp_path: Path) -> None:
    """In the fast lane too; each begins a trace of its own, and all its parts are in that."""
    async with collector() as found:
        await traced(tmp_path, found, ratio=1.0)

    (request,) = found.named("tallyslice-api", "POST /analytics")
    (question,) = found.named("tallyslice-api", "GET /analytics")
    statuses = [
        one.value.int_value for span in (request, question) for one in span.attributes
        if one.key == "http.response.status_code"
    ]  # fmt: skip
    assert statuses == [202, 200]
    assert {span.trace_id for span in found.named("tallyslice-worker", "commit")} >= {request.trace_id}
    assert question.trace_id in {span.trace_id for span in found.named("tallyslice-worker", "POST /worker/summaries")}
    assert not request.parent_span_id


@pytest.mark.parametrize(("ratio", "ask"), [(0.0, {}), (1.0, {"headers": NOT_ASKED_FOR})])
async def test_what_is_not_sampled_leaves_no_span(tmp_path: Path, ratio: float, ask: dict[str, Any]) -> None:
    """Whatever the ratio, a caller that has decided against it is heard."""
    async with collector() as found:
        await traced(tmp_path, found, ratio=ratio, **ask)

    names = {span.name for _, span in found.spans}
    assert not names & {"POST /analytics", "POST /events", "deliver", "decode", "commit"}


async def test_an_envelope_of_many_requests_is_linked_to_each(tmp_path: Path) -> None:
    """In the trace of the first one; whoever looks at another finds it by the link."""
    async with collector() as found:
        tracing = {"endpoint": found.url, "sample-ratio": 1}
        async with Nodes(tmp_path, workers=1, tracing=tracing) as nodes:
            await eventually(lambda: clicked(nodes))
            await asyncio.gather(*(nodes.click(f"{CANARY}-{n}") for n in range(20)))

    requests = {span.span_id for span in found.named("tallyslice-api", "POST /analytics")}
    told = [span.parent_span_id for span in found.named("tallyslice-api", "deliver")]
    told += [link.span_id for span in found.named("tallyslice-api", "deliver") for link in span.links]
    assert set(told) <= requests
    assert len(set(told)) >= 20


async def clicked(nodes: Nodes) -> None:
    assert (await nodes.click()).status == 202


async def test_a_collector_that_is_away_holds_up_nothing(tmp_path: Path) -> None:
    """Events are counted, the node stops in time, and says how many spans are lost."""
    tracing = {"endpoint": f"http://127.0.0.1:{PORTS.take()}/v1/traces", "sample-ratio": 1}
    async with asyncio.timeout(20), Nodes(tmp_path, workers=1, tracing=tracing) as nodes:
        await eventually(lambda: clicked(nodes))


SCRIPT = """
import sys
{before}
from api_node.__main__ import main as api
import worker_node.__main__
print("opentelemetry" in {{name.partition(".")[0] for name in sys.modules}})
sys.argv = ["api_node", "0", {file!r}, "--data", {data!r}]
{after}
"""


@pytest.mark.parametrize("installed", [True, False])
def test_nothing_is_imported_where_it_is_off_and_nothing_started_where_it_is_missing(
    tmp_path: Path, *, installed: bool
) -> None:
    """Exit code 78, and how to install it."""
    nodes = Nodes(tmp_path, workers=1, start=False, tracing={"endpoint": "http://127.0.0.1:4318/v1/traces"})
    script = SCRIPT.format(
        before="" if installed else "sys.modules['opentelemetry'] = None",
        file=str(nodes.file), data=str(tmp_path / "data"), after="" if installed else "sys.exit(api())",
    )  # fmt: skip
    for node in (*nodes.api.values(), *nodes.worker.values()):
        PORTS.give_back(node.node.port)

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    if installed:
        assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr
    else:
        assert ended.returncode == 78, ended.stderr
        assert 'tracing: needs packages that are not installed: pip install "tallyslice[otel]"' in ended.stderr
