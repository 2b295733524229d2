"""From the answer that somebody got to the lines of both logs about it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.logs import new_log
from common.request_ids import brought_id, draw_id
from tests.support.events import CANARY
from tests.support.nodes import Nodes
from tests.support.patience import eventually
from tests.support.proxy import Exchange, Proxy
from worker_node.app import Parts
from worker_node.space import Space


class DefectiveSpace(Space):
    """Raises what nobody expects, once it is told to."""

    defective = False

    def problem(self) -> str | None:
        if self.defective:
            raise RuntimeError(CANARY)
        return super().problem()

    def require(self) -> None:
        if self.defective:
            raise RuntimeError(CANARY)
        super().require()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """One worker, which has taken an event and then gets a defect."""
    made: list[DefectiveSpace] = []

    def make_space(**parts: object) -> Space:
        made.append(DefectiveSpace(**parts))  # type: ignore[arg-type] # as they come
        return made[-1]

    async with Nodes(tmp_path, workers=1, start=False) as found:
        await found.start_worker("0", parts=Parts(space=make_space))
        await found.start_api("0")
        await eventually(lambda: counted(found))
        made[-1].defective = True
        yield found
        made[-1].defective = False


def lines(nodes: Nodes, event: str, node: str) -> list[str]:
    """The ids in the lines of an event."""
    found = [line for line in nodes.written.getvalue().splitlines() if f"event={event} " in line]
    return re.findall(r"request_id=(\S+)", "\n".join(line for line in found if f" node={node} " in line))


async def test_a_question_is_found_in_both_logs_by_the_id_that_it_brought(nodes: Nodes) -> None:
    """And the answer has it, in head and body."""
    answer = await nodes.get(headers={"X-Request-Id": "night.7_a-B"})

    assert (answer.problem, answer.headers["X-Request-Id"], answer.json["request_id"]) == (
        "no-answer", "night.7_a-B", "night.7_a-B",
    )  # fmt: skip
    assert lines(nodes, "request_unavailable", "api-0") == ["night.7_a-B"]
    assert lines(nodes, "request_failed", "worker-0") == ["night.7_a-B"]


@pytest.mark.parametrize("path", ["", "/perworker", "/allslices"])
async def test_a_question_without_an_id_gets_one(nodes: Nodes, path: str) -> None:
    """The fast lane's too; it leads to the same lines."""
    answer = await nodes.get(path)

    drawn = answer.json["request_id"]
    assert drawn == answer.headers["X-Request-Id"]
    assert lines(nodes, "request_unavailable", "api-0") == [drawn]
    assert lines(nodes, "request_failed", "worker-0") == [drawn]


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 65, "a;b", f"{CANARY}=1"])
async def test_what_cannot_be_an_id_is_as_if_there_was_none(nodes: Nodes, name: str) -> None:
    """It is neither answered nor logged."""
    answer = await nodes.get(headers={"X-Request-Id": name})

    assert brought_id(answer.headers) != name
    assert lines(nodes, "request_unavailable", "api-0") == [answer.headers["X-Request-Id"]]


async def test_a_refused_request_has_an_id_and_no_line(nodes: Nodes) -> None:
    """The fault is the client's: the answer says it all."""
    answer = await nodes.post("user=a&click", headers={"X-Request-Id": "mine"})
    plain = await nodes.post("user=a&click")

    assert (answer.status, answer.headers["X-Request-Id"]) == (400, "mine")
    assert brought_id(plain.headers) is not None
    assert "request_id" not in plain.json
    assert not lines(nodes, "request_unavailable", "api-0")


async def test_an_envelope_has_an_id_of_its_own(tmp_path: Path) -> None:
    """The line of the API node names it as the worker was told, and as the worker's log would have it."""

    async def refuse(_: Exchange) -> bytes:
        body = b'{"type":"urn:tallyslice:problem:unavailable","detail":"not now"}'
        return b"HTTP/1.1 503 Not now\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async with Nodes(tmp_path, workers=1) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes={"0": proxy.url}))
        proxy.plan.append(refuse)

        await eventually(lambda: counted(nodes))

        sent = [re.search(rb"X-Request-Id: (\S+)", exchange.request) for exchange in proxy.exchanges]
        names = [found[1].decode() for found in sent if found is not None]
        assert len(names) == len(set(names)) == 2
        assert lines(nodes, "delivery_failed", "api-0") == names[:1]


async def counted(nodes: Nodes) -> None:
    assert (await nodes.click()).status == 202


def test_ids_that_are_drawn_are_ids_and_differ() -> None:
    drawn = [draw_id() for _ in range(1000)]

    assert len(set(drawn)) == 1000
    assert all(brought_id({"X-Request-Id": one}) == one for one in drawn)


async def test_lines_may_be_json(tmp_path: Path) -> None:
    """One object a line, with the same members."""
    written = io.StringIO()

    new_log("api-0", form="json", stream=written).warning("refused", reasons=("a", "b"), path=tmp_path, worker="1")

    (line,) = written.getvalue().splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "timestamp": "", "level": "warning", "node": "api-0", "event": "refused", "reasons": "a; b",
        "path": str(tmp_path), "worker": "1",
    }  # fmt: skip
