"""Who may call an API node: real nodes, real files, every route."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from api_node.reference.operations import OPERATIONS, Operation
from api_node.scopes import OPEN, SCOPES, scope_of
from common.tokens import Scope, entry_of, new_token, write_entries
from tests.support.cluster import FIRST, Answer
from tests.support.command import tallyslice
from tests.support.nodes import Clock, Nodes
from tests.support.patience import eventually

EVENT = f"timestamp={FIRST}&user=ada&click"
TOKENS = {scope: new_token() for scope in Scope}
ORIGIN = "https://shop.example.org"


def write_tokens(folder: Path, *scopes: Scope, **more: str) -> Path:
    """A tokens file with a token for each of these, named after it."""
    path = folder / "tokens.json"
    write_entries(path, [entry_of(TOKENS[scope], name=scope.value, scopes=[scope], **more) for scope in scopes])
    return path


def bearer(scope: Scope) -> dict[str, str]:
    """The header that shows the token for this."""
    return {"Authorization": f"Bearer {TOKENS[scope]}"}


def calls_of(nodes: Nodes) -> list[tuple[str, str, Scope | None]]:
    """Method, template and scope of every route of the API node."""
    parts = nodes.api["0"].parts
    assert parts is not None
    return sorted(
        (
            (route.method, resource.canonical, scope_of(route.method, resource.canonical))
            for resource in parts.app.router.resources()
            for route in resource
        ),
        key=str,
    )


async def test_every_route_has_a_scope_or_is_open(tmp_path: Path) -> None:
    """Whoever adds a route says in api_node/scopes.py what a token must be for."""
    async with Nodes(tmp_path, workers=1) as nodes:
        calls = calls_of(nodes)

    closed = {(method, path.rstrip("/")) for method, path, scope in calls if scope is not None and method != "HEAD"}
    assert closed == SCOPES.keys()
    assert {path.rstrip("/") or "/" for _, path, scope in calls if scope is None} == OPEN


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: str(one.name))
def test_the_reference_names_the_same_scopes(one: Operation) -> None:
    """What /openapi.json says of a call."""
    scope = scope_of(one.method.upper(), one.path)

    assert (None if scope is None else scope.value) == one.scope


async def test_every_route_asks_for_its_scope(tmp_path: Path) -> None:
    """401 without a token, 403 with one that is for something else, neither with the right one; open ones never."""
    write_tokens(tmp_path, *Scope)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json") as nodes:
        base = nodes.api["0"].node.base
        for method, path, scope in calls_of(nodes):
            url = base + re.sub(r"\{.*?\}", "x", path)
            none = await nodes.knock(method, url)
            tried = {one: await nodes.knock(method, url, headers=bearer(one)) for one in Scope}
            if scope is None:
                assert none.status not in (401, 403), (method, path)
                continue
            assert none.status == 401, (method, path)
            assert none.headers["WWW-Authenticate"] == "Bearer"
            for one, answer in tried.items():
                assert (answer.status == 403) == (one is not scope), (method, path, one)
                assert answer.status != 401

        written = nodes.written.getvalue()
    assert not any(token in written for token in TOKENS.values())


async def test_an_event_is_counted_with_the_right_token_only(tmp_path: Path) -> None:
    """Along the hot path."""
    write_tokens(tmp_path, Scope.WRITE, Scope.READ)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json") as nodes:
        answers = [
            await nodes.post(EVENT, headers=headers) for headers in ({}, bearer(Scope.READ), bearer(Scope.WRITE))
        ]
        summary = await nodes.get(f"?timestamp={FIRST}", headers=bearer(Scope.READ))
        metrics = (await nodes.ask("GET", f"{nodes.api['0'].node.base}/metrics", headers=bearer(Scope.READ))).text

    assert [answer.status for answer in answers] == [401, 403, 202]
    assert answers[0].json["type"] == "urn:tallyslice:problem:unauthorized"
    assert summary.text.splitlines()[:2] == ["unique_users,1", "clicks,1"]
    assert 'tallyslice_requests_denied_total{reason="no_token"} 1.0' in metrics
    assert 'tallyslice_requests_denied_total{reason="scope"} 1.0' in metrics
    assert "tallyslice_tokens 2.0" in metrics


async def test_nobody_is_asked_by_default(tmp_path: Path) -> None:
    """Off, until there is a tokens file."""
    async with Nodes(tmp_path, workers=1) as nodes:
        answers = [await nodes.post(EVENT), await nodes.post(EVENT, headers={"Authorization": "Bearer anything"})]
        state = await nodes.state()

    assert [answer.status for answer in answers] == [202, 202]
    assert state["tokens"] is None


async def test_tokens_follow_their_file(tmp_path: Path) -> None:
    """A bad one leaves those known in place, and is told; the next good one is taken."""
    path = write_tokens(tmp_path, Scope.READ)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json") as nodes:
        assert (await nodes.post(EVENT, headers=bearer(Scope.WRITE))).status == 401
        write_tokens(tmp_path, Scope.READ, Scope.WRITE)

        async def taken() -> None:
            assert (await nodes.post(EVENT, headers=bearer(Scope.WRITE))).status == 202

        await eventually(taken)
        path.write_text('[{"name": "half')
        refused = await eventually(lambda: state_with(nodes, refused=True))
        assert (await nodes.post(EVENT, headers=bearer(Scope.WRITE))).status == 202
        write_tokens(tmp_path, Scope.READ)
        good = await eventually(lambda: state_with(nodes, refused=False))
        assert (await nodes.post(EVENT, headers=bearer(Scope.WRITE))).status == 401

        written = nodes.written.getvalue()
    assert refused["count"] == 2
    assert refused["refusal"]["reasons"][0].startswith("tokens-file: the file is not JSON5")
    assert good["count"] == 1
    assert [written.count(f"event=tokens_file_{what}") for what in ("accepted", "refused")] == [2, 1]


async def state_with(nodes: Nodes, *, refused: bool) -> Mapping[str, Any]:
    """What /cluster says of the tokens file, once it is, or is not, refused."""
    base = nodes.api["0"].node.base
    tokens: dict[str, Any] = (await nodes.ask("GET", f"{base}/cluster", headers=bearer(Scope.READ))).json["tokens"]
    assert (tokens["refusal"] is not None) == refused
    metric = (await nodes.ask("GET", f"{base}/metrics", headers=bearer(Scope.READ))).text
    assert f"tallyslice_tokens_refused {float(refused)}" in metric
    return tokens


async def test_tokens_are_turned_on_and_off_by_the_cluster_file(tmp_path: Path) -> None:
    """While the node runs; a tokens file that cannot be used refuses the change."""
    write_tokens(tmp_path, Scope.WRITE)
    async with Nodes(tmp_path, workers=1) as nodes:

        async def status(expected: int) -> None:
            assert (await nodes.post(EVENT)).status == expected

        await status(202)
        nodes.write(tokens_file="missing.json")

        async def refused() -> None:
            refusal = (await nodes.state())["refusal"]
            assert refusal is not None
            assert "missing.json" in refusal["reasons"][0]

        await eventually(refused)
        await status(202)
        nodes.write(tokens_file="tokens.json")
        await eventually(lambda: status(401))
        assert (await nodes.post(EVENT, headers=bearer(Scope.WRITE))).status == 202
        nodes.write(tokens_file=None)
        await eventually(lambda: status(202))


async def test_the_internal_token_opens_an_api_node(tmp_path: Path) -> None:
    """So that the commands for the registry go on."""
    (tmp_path / "token").write_text("sesame")
    write_tokens(tmp_path, Scope.READ)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json", internal_token_file="token") as nodes:
        url = f"{nodes.api['0'].node.base}/cluster/routes"
        statuses = [
            (await nodes.ask("POST", url, headers=headers)).status
            for headers in ({}, bearer(Scope.READ), {"Authorization": "Bearer sesame"})
        ]

    assert statuses == [401, 403, 415]


@pytest.mark.parametrize("path", ["/analytics", "/analytics/"])
async def test_one_request_too_many_is_429(tmp_path: Path, path: str) -> None:
    """By the short way and the long one; nothing of it is counted, and probes are not held up."""
    async with Nodes(tmp_path, workers=1, rate_limits={"per-address": "3/hour"}) as nodes:
        base = nodes.api["0"].node.base
        answers = [await nodes.ask("POST", f"{base}{path}?{EVENT}") for _ in range(4)]
        probes = [(await nodes.ask("GET", f"{base}/livez")).status for _ in range(5)]

    assert [answer.status for answer in answers] == [202, 202, 202, 429]
    last = answers[-1]
    assert last.json["type"] == "urn:tallyslice:problem:too-many-requests"
    assert 3590 < int(last.headers["Retry-After"]) <= 3600
    assert last.headers["RateLimit-Policy"] == '"per-address";q=3;w=3600'
    assert last.headers["RateLimit"] == f'"per-address";r=0;t={last.headers["Retry-After"]}'
    assert "127.0.0.1" not in last.text
    assert probes == [200] * 5


@pytest.mark.parametrize(("proxies", "statuses"), [([], [202, 429]), (["127.0.0.0/8"], [202, 202])])
async def test_clients_of_a_trusted_proxy_are_told_apart(
    tmp_path: Path, proxies: list[str], statuses: list[int]
) -> None:
    """Whoever is no trusted proxy can say what he likes."""
    async with Nodes(tmp_path, workers=1, rate_limits={"per-address": "1/hour"}, trusted_proxies=proxies) as nodes:
        answers = [
            await nodes.post(EVENT, headers={"X-Forwarded-For": f"198.51.100.9, 192.0.2.{number}"}) for number in (1, 2)
        ]
        written = nodes.written.getvalue()

    assert [answer.status for answer in answers] == statuses
    assert "192.0.2." not in written


async def test_a_page_of_an_allowed_origin_may_call(tmp_path: Path) -> None:
    """It is asked for first, and answers of both ways, errors too, say so; others get nothing."""
    write_tokens(tmp_path, Scope.WRITE)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json", cors_origins=[ORIGIN]) as nodes:
        base = nodes.api["0"].node.base
        asks = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        before = [await nodes.ask("OPTIONS", f"{base}{path}", headers=asks) for path in ("/analytics", "/events")]
        posts = [
            await nodes.ask("POST", f"{base}{path}?{EVENT}", headers={"Origin": ORIGIN} | token)
            for path in ("/analytics", "/analytics/", "/events")
            for token in (bearer(Scope.WRITE), {})
        ]
        other = await nodes.post(EVENT, headers={"Origin": "https://evil.example"} | bearer(Scope.WRITE))
        unasked = await nodes.ask("OPTIONS", f"{base}/analytics")
        nowhere = await nodes.ask("OPTIONS", f"{base}/nowhere", headers=asks)

    for answer in before:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type, X-Request-Id"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert [answer.status for answer in posts] == [202, 401, 202, 401, 415, 401]
    for answer in [*before, *posts]:
        assert all_of(answer, "Access-Control-Allow-Origin") == [ORIGIN]
        assert all_of(answer, "Vary") == ["Origin"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "X-Durability" in posts[0].headers["Access-Control-Expose-Headers"]
    assert (other.status, other.headers["Vary"]) == (202, "Origin")
    assert "Access-Control-Allow-Origin" not in other.headers
    assert (unasked.status, nowhere.status) == (405, 404)


async def test_a_stream_asks_and_tells_as_other_answers_do(tmp_path: Path) -> None:
    """Who may read it, and which pages: before its first byte."""
    write_tokens(tmp_path, Scope.READ)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json", cors_origins=[ORIGIN]) as nodes:
        url = f"{nodes.api['0'].node.base}/live"
        refused = await nodes.ask("GET", url, headers={"Origin": ORIGIN})
        async with nodes.session.get(url, headers={"Origin": ORIGIN} | bearer(Scope.READ)) as stream:
            status, headers = stream.status, stream.headers
            begun = await stream.content.readline()

    assert (refused.status, status) == (401, 200)
    assert refused.headers["Access-Control-Allow-Origin"] == headers["Access-Control-Allow-Origin"] == ORIGIN
    assert begun


async def test_who_is_refused_is_not_read(tmp_path: Path) -> None:
    """However much he wants to send: the answer comes before the body."""
    write_tokens(tmp_path, Scope.READ)
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json") as nodes:
        reader, writer = await asyncio.open_connection("127.0.0.1", nodes.api["0"].node.port)
        writer.write(
            b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16000000\r\n\r\n"
        )
        answer = await reader.readline()
        writer.close()

    assert answer == b"HTTP/1.1 401 Unauthorized\r\n"


def all_of(answer: Answer, name: str) -> list[str]:
    """Each value of a header: none may come twice."""
    return [value for header, value in answer.headers.items() if header == name]


async def test_commands_show_a_token(tmp_path: Path) -> None:
    """Each that asks an API node; without one they say what is missing, and leave with a code of its own."""
    both = new_token()
    files = {}
    entries = [entry_of(TOKENS[Scope.ADMIN], name="admin", scopes=[Scope.ADMIN, Scope.READ])]
    entries.append(entry_of(both, name="both", scopes=[Scope.WRITE, Scope.READ]))
    write_entries(tmp_path / "tokens.json", entries)
    for name, text in (("admin", TOKENS[Scope.ADMIN]), ("both", both)):
        files[name] = tmp_path / name
        files[name].write_text(f"{text}\n")
    now = Clock(time.time())
    async with Nodes(tmp_path / "n", workers=1, now=now, tokens_file="../tokens.json", first_slice="system") as nodes:
        base, file = nodes.api["0"].node.base, nodes.file
        load = ("load", base, "--seconds", "0.2", "--cache-ttl", "0", "--json")
        plan = ("plan", file, file, "--api", base)
        rebuild = ("registry", "rebuild", file, "--dry-run")
        bare = await asyncio.gather(*(tallyslice(*command) for command in (load, plan, rebuild)))
        shown = await asyncio.gather(
            tallyslice(*load, "--token-file", files["both"]),
            tallyslice(*plan, "--token-file", files["both"]),
            tallyslice(*rebuild, "--token-file", files["admin"]),
        )

    assert [said.code for said in bare] == [77, 77, 70]
    assert ["--token-file" in said.err for said in bare[:2]] == [True, True]
    assert "send Authorization: Bearer and a token" in " ".join(bare[2].err.split())
    assert [said.code for said in shown] == [0, 0, 0], shown
    assert shown[0].json["exact"]


async def test_what_a_beacon_sends_is_taken(tmp_path: Path) -> None:
    """A page that is being left can send a form, and nothing else, without being asked about."""
    async with Nodes(tmp_path, workers=1) as nodes:
        url = f"{nodes.api['0'].node.base}/events"
        body = f"timestamp={FIRST}&user=ada&event=click"
        form = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
        statuses = [
            (await nodes.ask("POST", url, body=body, headers=headers)).status
            for headers in (form, {"Content-Type": "text/plain;charset=UTF-8"})
        ]

    assert statuses == [202, 415]
