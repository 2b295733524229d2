"""Who may write to a worker: whoever brings the token, if there is one; and who is told that there is none."""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path

import pytest

from api_node.app import run_node
from common.logs import new_log
from common.routing import WorkerId
from common.tokens import write_entries
from common.web import NodeArguments
from tests.support.nodes import Nodes
from tests.support.ports import PORTS
from worker_node.app import Place, open_worker

BEYOND = "127.1"
"""Listens on this machine only, as every test does; but it is no address that would be known to be loopback."""


@pytest.mark.parametrize(("header", "status"), [(None, 401), ("Bearer wrong", 403)])
async def test_every_call_that_writes_needs_the_token(tmp_path: Path, header: str | None, status: int) -> None:
    """All POSTs, also those that come later. To look is free: what is shown has no user keys in it."""
    (tmp_path / "token").write_text("sesame")
    async with Nodes(tmp_path, workers=1, internal_token_file="token") as nodes:
        worker = nodes.worker["0"]
        place = Place(worker=WorkerId("0"), cluster_file=nodes.file, folder=tmp_path / "other")
        async with open_worker(place, log=new_log("worker-0", stream=io.StringIO()), fail=print) as opened:
            calls = {
                (route.method, resource.canonical) for resource in opened.app.router.resources() for route in resource
            }
        writing = sorted(path for method, path in calls if method == "POST")
        headers = {} if header is None else {"Authorization": header}
        answers = {path: await nodes.ask("POST", worker.node.base + path, headers=headers) for path in writing}
        looks = [await nodes.ask("GET", worker.node.base + f"/worker/{what}") for what in ("identity", "slices")]

    assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(writing, status)
    assert len(writing) > 6
    assert {method for method, _ in calls} == {"GET", "HEAD", "POST"}
    assert [look.status for look in looks] == [200, 200]


@pytest.mark.parametrize(("host", "token", "warned"), [(BEYOND, None, 1), (BEYOND, "token", 0), ("127.0.0.1", None, 0)])
async def test_an_api_node_beyond_loopback_misses_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, token: str | None, warned: int
) -> None:
    """Its workers would take what others send them."""
    (tmp_path / "token").write_text("sesame")
    (tmp_path / "secret.key").write_text("00" * 32)
    (tmp_path / "secret.key").chmod(0o600)
    port = PORTS.take()
    async with Nodes(tmp_path, workers=1, start=False, internal_token_file=token) as nodes:
        nodes.write(api_nodes={"0": f"http://{host}:{port}/analytics"})
        stop = asyncio.Event()
        stop.set()
        await run_node(NodeArguments(node="0", cluster_file=nodes.file, data=tmp_path / "api"), stop)
    PORTS.give_back(port)

    assert len(re.findall("event=listening_beyond_loopback_without_internal_token", capsys.readouterr().err)) == warned


@pytest.mark.parametrize(("host", "tokens", "warned"), [(BEYOND, False, 1), (BEYOND, True, 0), ("127.0.0.1", False, 0)])
async def test_an_api_node_beyond_loopback_misses_its_clients_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, *, tokens: bool, warned: int
) -> None:
    """It says so and serves: a proxy may be what asks. On this machine alone nobody misses them."""
    write_entries(tmp_path / "tokens.json", [])
    (tmp_path / "secret.key").write_text("00" * 32)
    (tmp_path / "secret.key").chmod(0o600)
    port = PORTS.take()
    async with Nodes(tmp_path, workers=1, start=False, tokens_file="tokens.json" if tokens else None) as nodes:
        nodes.write(api_nodes={"0": f"http://{host}:{port}/analytics"})
        stop = asyncio.Event()
        stop.set()
        await run_node(NodeArguments(node="0", cluster_file=nodes.file, data=tmp_path / "api"), stop)
    PORTS.give_back(port)

    assert len(re.findall("event=listening_beyond_loopback_without_tokens", capsys.readouterr().err)) == warned
