"""A cluster whose nodes speak TLS to clients and to each other: it counts, and believes nobody without proof."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp
import pytest

from api_node.app import Deadlines
from common.errors import ConfigRefused
from tests.support.authority import Authority
from tests.support.cluster import Answer
from tests.support.events import CANARY
from tests.support.nodes import Nodes
from tests.support.patience import eventually

IMPATIENT = Deadlines(delivery_seconds=5, question_seconds=2, route_seconds=0.4, watch_seconds=0.1, away_seconds=0.2)
ONE_CLICK = "unique_users,1\nclicks,1\nimpressions,0\n"
EACH_ITS_OWN = {"certificate": "../tls/{node}.crt", "key": "../tls/{node}.key"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path / "tls")
    for name in ("api-0", "worker-0"):
        found.issue(name)
    return found


def nodes_of(tmp_path: Path, authority: Authority, *, trusted: Authority | None = None, **more: str) -> Nodes:
    context = authority.client((authority.folder / "api-0.crt", authority.folder / "api-0.key"))
    if trusted is not None:
        context.load_verify_locations(trusted.path)
    return Nodes(
        tmp_path / "cluster",
        workers=1,
        deadlines=IMPATIENT,
        client_tls=context,
        reload_seconds=0.05,
        tls={
            **EACH_ITS_OWN,
            "ca": str(authority.path),
            **{name.replace("_", "-"): path for name, path in more.items()},
        },
    )


async def link_is(nodes: Nodes, state: str, detail: str | None) -> None:
    async def check() -> None:
        link = await nodes.link("0")
        assert link["state"] == state
        assert link["detail"] is None if detail is None else detail in link["detail"]

    await eventually(check)


async def drained(nodes: Nodes) -> None:
    async def check() -> None:
        assert (await nodes.state())["spool"]["events"] == 0

    await eventually(check)


async def ask(nodes: Nodes, context: ssl.SSLContext, url: str) -> Answer:
    """On a connection of its own, with another context."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, ssl=context)) as session,
        session.get(url) as answer,
    ):
        return Answer(status=answer.status, body=await answer.read(), headers=answer.headers)


async def test_events_are_counted_and_questions_answered(tmp_path: Path, authority: Authority) -> None:
    """Both listeners have https URLs, and a certificate each."""
    async with nodes_of(tmp_path, authority) as nodes:
        assert (await nodes.click()).status == 202

        assert await nodes.summary() == ONE_CLICK
        assert (await nodes.link("0"))["state"] == "ok"
        metric = await nodes.metric("tallyslice_certificate_expires_timestamp_seconds")
        assert metric < float("inf")


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("ca", "its certificate is not accepted: unable to get local issuer certificate"),
        ("host", "its certificate is not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("time", "its certificate is not accepted: certificate has expired"),
    ],
)
async def test_a_worker_that_cannot_prove_who_it_is_gets_nothing(
    tmp_path: Path, authority: Authority, fault: str, why: str
) -> None:
    """It is away, and ``/cluster`` says why; its events wait in the spool until its new certificate is good."""
    async with nodes_of(tmp_path, authority) as nodes:
        assert (await nodes.click(f"{CANARY}-1")).status == 202
        await nodes.worker["0"].stop()
        if fault == "ca":
            issued = Authority(tmp_path / "other").issue()
            for mine, other in zip(("worker-0.crt", "worker-0.key"), issued, strict=True):
                (authority.folder / mine).write_bytes(other.read_bytes())
        elif fault == "host":
            authority.issue("worker-0", hosts=("elsewhere.example",))
        else:
            authority.issue("worker-0", expired=True)
        await nodes.start_worker("0")
        await link_is(nodes, "away", why)
        spooled = await nodes.click(f"{CANARY}-2")

        authority.issue("worker-0")
        await link_is(nodes, "ok", None)
        await drained(nodes)

        assert (spooled.status, spooled.headers["X-Durability"]) == (202, "spool")
        assert await nodes.summary() == "unique_users,2\nclicks,2\nimpressions,0\n"
        assert CANARY not in nodes.written.getvalue()


async def test_a_worker_asks_for_certificates_where_the_file_says_so(tmp_path: Path, authority: Authority) -> None:
    """API nodes show theirs; whoever has none, or a stranger's, is not let in. An API node's clients need none."""
    stranger = Authority(tmp_path / "other")
    async with nodes_of(tmp_path, authority, client_ca=str(authority.path)) as nodes:
        assert (await nodes.click()).status == 202
        assert await nodes.summary() == ONE_CLICK

        worker = f"{nodes.worker['0'].url}/identity"
        for context in (authority.client(), authority.client(stranger.issue())):
            with pytest.raises(aiohttp.ClientError):
                await ask(nodes, context, worker)
        shown = (authority.folder / "api-0.crt", authority.folder / "api-0.key")
        assert (await ask(nodes, authority.client(shown), worker)).status == 200
        assert (await ask(nodes, authority.client(), f"{nodes.api['0'].node.base}/readyz")).status == 200


async def test_renewed_certificates_are_used_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    """A whole new CA: first trusted beside the old one, then used."""
    other = Authority(tmp_path / "other")
    async with nodes_of(tmp_path, authority, trusted=other) as nodes:
        origins = [node.base for node in (nodes.api["0"].node, nodes.worker["0"].node)]
        authority.path.write_bytes(authority.path.read_bytes() + other.path.read_bytes())
        for name in ("api-0", "worker-0"):
            for suffix, issued in zip((".crt", ".key"), other.issue(name), strict=True):
                issued.replace(authority.folder / f"{name}{suffix}")

        async def renewed() -> None:
            try:
                answers = [await ask(nodes, other.client(), f"{origin}/readyz") for origin in origins]
            except aiohttp.ClientError as error:
                raise AssertionError from error
            assert {answer.status for answer in answers} == {200}

        await eventually(renewed)
        await nodes.worker["0"].stop()  # so that the API node connects anew
        await nodes.start_worker("0")

        await link_is(nodes, "ok", None)
        assert nodes.written.getvalue().count("event=certificates_loaded") >= 2


async def test_files_that_cannot_be_used_are_told_and_change_nothing(tmp_path: Path, authority: Authority) -> None:
    """In ``/cluster``, a metric and the log; so does a cluster file that names such files."""
    async with nodes_of(tmp_path, authority) as nodes:
        certificate = authority.folder / "api-0.crt"
        good = certificate.read_bytes()
        certificate.write_bytes(b"half of a certi")

        async def told() -> None:
            state = await nodes.state()
            assert any("the new TLS files are not used" in problem for problem in state["problems"]), state
            assert await nodes.metric("tallyslice_certificates_refused") == 1

        await eventually(told)
        assert "event=certificates_refused" in nodes.written.getvalue()
        certificate.write_bytes(good)

        nodes.write(tls={**EACH_ITS_OWN, "ca": "nowhere.crt"})

        async def refused() -> None:
            refusal = (await nodes.state())["refusal"]
            assert refusal is not None
            assert "tls.ca" in refusal["reasons"][0]

        await eventually(refused)
        assert (await nodes.click()).status == 202


async def test_a_node_whose_files_are_not_there_does_not_start(tmp_path: Path, authority: Authority) -> None:
    """With the path, as any other refusal of the cluster file."""
    nodes = nodes_of(tmp_path, authority)
    async with nodes:
        await nodes.worker["0"].stop()
        (authority.folder / "worker-0.key").unlink()

        with pytest.raises(ConfigRefused, match=r"tls\.key: .*worker-0\.key cannot be read"):
            await nodes.start_worker("0")
