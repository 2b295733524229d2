"""What a node tells of its own interface is what it does: the document, its examples, the page."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from multidict import CIMultiDict, CIMultiDictProxy
from openapi_spec_validator import OpenAPIV31SpecValidator

from api_node.answers import AllSlices, BulkProblem, ClusterState, PerWorker, Problem, SliceSummary
from api_node.bulk import Report
from api_node.reference.document import document
from api_node.reference.operations import NOT_PART
from common.errors import RequestError
from common.events import CLASSIC_TYPES
from common.lines import Line
from common.slices import INSTANT_PATTERN, parse_instant
from common.tokens import Scope, entry_of, new_token, write_entries
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import user
from tests.support.nodes import QUICK, Nodes
from tests.support.pages import ROOT
from tests.support.patience import eventually

VENDOR = ROOT / "api_node/reference/vendor"
TYPES = {
    kind.__name__: kind for kind in (AllSlices, BulkProblem, ClusterState, PerWorker, Problem, SliceSummary, Report)
}
# A busy machine must not be taken for a worker that is away; one that is, is waited for this long.
PATIENT = replace(QUICK, delivery_seconds=20.0, question_seconds=2.0, away_seconds=1.0)
METHODS = {"get", "post", "put", "delete", "patch", "head", "options"}
# What no client of an API node meets: errors of workers, and of a defect.
NOT_FOR_CLIENTS = {"conflict", "wrong-cluster", "wrong-worker", "registry-behind", "internal"}


def read_as(answer: Any, kind: type[Any]) -> None:
    """The answer is of this type, and has no member that the type does not have."""
    assert json.loads(msgspec.json.encode(msgspec.convert(answer, kind))) == answer


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The document as clients read it."""
    read: dict[str, Any] = json.loads(msgspec.json.encode(document()))
    return read


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """A cluster as the examples are about it."""
    async with Nodes(tmp_path, deadlines=PATIENT) as running:
        yield running


def operations(shown: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each call."""
    for path, item in shown["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield method, path, operation


def resolved(shown: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to, if it is one."""
    for name in part.get("$ref", "#").split("/")[1:]:
        shown = shown[name]
    return shown if "$ref" in part else part


def check(shown: dict[str, Any], method: str, path: str, answer: Answer) -> None:
    """The answer is one that the document has for this call: status, media type, body and headers."""
    responses = shown["paths"][path][method]["responses"]
    assert str(answer.status) in responses, answer
    response = resolved(shown, responses[str(answer.status)])
    for name, header in response.get("headers", {}).items():
        assert name in answer.headers or not resolved(shown, header)["required"], name
        if name in answer.headers:
            schema = resolved(shown, header)["schema"]
            value = int(answer.headers[name]) if schema["type"] == "integer" else answer.headers[name]
            Draft202012Validator(schema).validate(value)
    contents = response.get("content", {})
    if not contents:
        assert answer.body == b""
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    schema = contents[kind]["schema"] | {"components": shown["components"]}
    Draft202012Validator(schema).validate(answer.json if kind.endswith("json") else answer.text)


# The document


def test_it_is_openapi(shown: dict[str, Any]) -> None:
    """The document is what the specification of OpenAPI 3.1 asks for."""
    assert shown["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(shown).validate()


def test_names_are_unique(shown: dict[str, Any]) -> None:
    """Of operations, for those who make a client of them."""
    names = [operation["operationId"] for *_, operation in operations(shown)]

    assert len(set(names)) == len(names)


async def test_every_route_is_in_it(nodes: Nodes, shown: dict[str, Any]) -> None:
    """Each route of the application is in the document, or listed as not part of the API; and no more."""
    parts = nodes.api["0"].parts
    assert parts is not None
    routes = {
        (route.method.lower(), resource.canonical.rstrip("/") or "/")
        for resource in parts.app.router.resources()
        for route in resource
        if route.method != "HEAD"
    }

    described = {(method, path) for method, path, _ in operations(shown)}
    assert {path for _, path in routes - described} == set(NOT_PART)
    assert described <= routes
    assert all(NOT_PART.values()), "each with its reason"


def test_every_problem_is_in_it(shown: dict[str, Any]) -> None:
    """Each problem type that a client may meet, with its status."""

    def kinds(kind: type[RequestError]) -> Iterator[type[RequestError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from kinds(child)

    found = set()
    responses = [response for *_, operation in operations(shown) for response in operation["responses"].values()]
    for response in [*responses, *shown["components"]["responses"].values()]:
        content = resolved(shown, response).get("content", {}).get("application/problem+json")
        if content is not None:
            found |= {
                kind.removeprefix("urn:tallyslice:problem:") for kind in content["schema"]["properties"]["type"]["enum"]
            }

    assert found == {kind.slug for kind in kinds(RequestError)} - NOT_FOR_CLIENTS


def test_every_text_is_there(shown: dict[str, Any]) -> None:
    """Each member of each schema says what it means."""
    schemas = shown["components"]["schemas"]

    bare = [
        (name, member)
        for name, schema in schemas.items()
        for member, what in schema.get("properties", {}).items()
        if not what.get("description")
    ]
    assert bare == []


def test_the_line_is_the_one_that_is_decoded(shown: dict[str, Any]) -> None:
    """The schema of an event of many has the members that the decoder knows."""
    line = shown["components"]["schemas"]["EventLine"]["properties"]

    assert line.keys() == {field.encode_name for field in msgspec.structs.fields(Line)}
    assert shown["components"]["schemas"]["Event"]["properties"].keys() == {
        "timestamp",
        "user",
        "event",
        "id",
        *CLASSIC_TYPES,
    }


@given(st.one_of(st.from_regex(INSTANT_PATTERN), st.text(), st.from_regex(r"\A[0-9TZ:.+-]{1,30}\Z")))
def test_the_pattern_of_a_time(text: str) -> None:
    """What is read fits it, and what fits is refused only because there is no such time, or it is too far away."""
    try:
        parse_instant(text)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""

    # Without what Python's $ lets through, and JSON Schema's does not.
    if re.search(INSTANT_PATTERN, text) and not text.endswith("\n"):
        assert refused in ("", "is not a date and time that exists", "must be in the years 1 to 9999")
    else:
        assert refused


# What it says, and what the node does


async def test_examples(nodes: Nodes, shown: dict[str, Any]) -> None:
    """Each example of the document, made as a call, is answered as the document says."""
    made = 0
    for method, path, operation in operations(shown):
        assert operation["x-examples"], f"{method} {path} has no example"
        for name, example in operation["x-examples"].items():
            body: Any = None
            headers = {}
            if (kind := example.get("body")) is not None:
                headers["Content-Type"] = kind
                body = (
                    operation["requestBody"]["content"]
                    .get(kind, {})
                    .get("examples", {})
                    .get(name, {})
                    .get("value", "-")
                )
                if kind == "application/x-www-form-urlencoded":
                    body = urlencode(body)
                elif not isinstance(body, str):
                    body = json.dumps(body)
            query = "&".join(f"{key}={value}" for key, value in example["query"].items())
            answer = await nodes.ask(
                method.upper(), f"{nodes.api['0'].node.base}{path}?{query}", body=body, headers=headers
            )

            assert answer.status == example["status"], (name, answer)
            check(shown, method, path, answer)
            assert answer.headers.get("Content-Type", "").partition(";")[0] in (
                example.get("answer", ""),
                "application/octet-stream",
            )
            response = resolved(shown, operation["responses"][str(answer.status)])
            told = response.get("content", {}).get(example.get("answer"), {}).get("examples", {}).get(name)
            if told is not None:
                assert (answer.json if example["answer"].endswith("json") else answer.text) == told["value"], name
            made += 1

    assert made > 20


async def test_answers_are_of_their_types(nodes: Nodes, shown: dict[str, Any]) -> None:
    """Summaries, the cluster and problems, whole and with a worker away, have the members of their types, no others."""
    asked = f"timestamp={FIRST}&format=json&partial=true"
    kinds = {"": SliceSummary, "/perworker": PerWorker, "/allslices": AllSlices}
    base = nodes.api["0"].node.base

    async def look(*, complete: bool) -> None:
        for path, kind in kinds.items():
            answer = await nodes.ask("GET", f"{base}/analytics{path}?{asked}")
            assert answer.headers.get("X-Complete") == str(complete).lower()
            check(shown, "get", f"/analytics{path}", answer)
            read_as(answer.json, kind)
            if kind is PerWorker:
                assert all(part["complete"] for part in answer.json["workers"]) == complete
        read_as(await nodes.state(), ClusterState)

    await eventually(lambda: look(complete=True))  # of a slice that holds nothing, before it is settled
    for number in range(20):
        assert (await nodes.ask("POST", f"{base}/analytics?timestamp={FIRST}&user={user(number)}&click")).status == 202
    await eventually(lambda: look(complete=True))
    await nodes.worker["1"].stop()
    await eventually(lambda: look(complete=False))
    silent = await nodes.ask("GET", f"{base}/analytics?timestamp={FIRST}")
    assert silent.status == 503
    check(shown, "get", "/analytics", silent)
    read_as(silent.json, Problem)
    spooled = await nodes.ask(
        "POST",
        f"{base}/events",
        body="".join(
            json.dumps({"timestamp": FIRST, "user": user(number), "event": "click"}) + "\n" for number in range(20)
        ),
        headers={"Content-Type": "application/jsonl"},
    )
    assert (spooled.status, spooled.headers["X-Durability"]) == (202, "spool")
    check(shown, "post", "/events", spooled)
    read_as(spooled.json, Report)
    await eventually(lambda: look(complete=False))
    refused = json.loads(nodes.file.read_text()) | {"length-of-time-slice": 2 * HOUR}
    nodes.write(**{key.replace("-", "_"): value for key, value in refused.items()})

    async def told() -> None:
        assert (await nodes.state())["refusal"]

    await eventually(told)
    await eventually(lambda: look(complete=False))


REFUSALS: tuple[tuple[str, str, bytes | None, str, int], ...] = (
    ("post", "/analytics", b"{", "application/json", 400),
    ("post", "/analytics?timestamp=1&user=%FF&click", None, "", 400),
    ("post", "/analytics", b"x" * (64 << 10) + b"x", "application/json", 413),
    ("post", "/analytics?timestamp=9999999999&user=a&click", None, "", 422),
    ("post", "/events", b"[1]", "application/json", 400),
    ("post", "/events", b"", "application/json", 400),
    ("post", "/events", b"a,b", "text/csv", 415),
    ("post", "/events", b"{}\n" * 65_537, "application/x-ndjson", 413),
    ("post", "/events", b'{"timestamp": 9999999999, "user": "a", "event": "click"}', "application/json", 422),
    ("get", "/analytics?timestamp=1&timestamp=1", None, "", 400),
    ("get", "/cluster?\xff", None, "", 400),
)


async def test_refusals(nodes: Nodes, shown: dict[str, Any]) -> None:
    """Each is one of the problems that the document has for the call."""
    for method, path, body, kind, status in REFUSALS:
        url = nodes.api["0"].node.base + path
        answer = await nodes.ask(method.upper(), url, body=body, headers={"Content-Type": kind} if kind else {})

        assert answer.status == status, (path, answer)
        check(shown, method, path.partition("?")[0], answer)
        read_as(answer.json, BulkProblem if path == "/events" else Problem)


async def test_before_it_is_ready(tmp_path: Path, shown: dict[str, Any]) -> None:
    """A node that has not met its cluster says so as the document says, whatever it is asked."""
    async with Nodes(tmp_path, workers=1, start=False) as nodes:
        await nodes.start_api("0", ready=False)
        base = nodes.api["0"].node.base
        for method, path, status in (
            ("get", "/readyz", 503),
            ("get", "/analytics", 503),
            ("get", "/cluster", 200),
            ("get", "/livez", 200),
        ):
            answer = await nodes.ask(method.upper(), base + path)
            assert answer.status == status, answer
            check(shown, method, path, answer)
        read_as(await nodes.state(), ClusterState)
        event = json.dumps({"timestamp": FIRST, "user": user(1), "event": "click"})
        many = await nodes.ask("POST", f"{base}/events", body=event, headers={"Content-Type": "application/json"})
        one = await nodes.click()

    for path, answer in (("/events", many), ("/analytics", one)):
        assert answer.status == 503
        assert answer.problem == "not-taken"
        check(shown, "post", path, answer)
        read_as(answer.json, BulkProblem if path == "/events" else Problem)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n" + 5 * (b"X: " + b"x" * 4000 + b"\r\n"), 431),
        (b"GET /livez\xff HTTP/0.0.0\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nExpect: the-moon\r\nConnection: close\r\n\r\n", 417),
    ],
)
async def test_what_no_call_is(nodes: Nodes, shown: dict[str, Any], sent: bytes, status: int) -> None:
    """What is refused before it is known which call it is: the document has it for all of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", nodes.api["0"].node.port)
    writer.write(sent)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    answer = Answer(status=int(head.split()[1]), body=body, headers=CIMultiDictProxy(CIMultiDict(headers)))

    assert answer.status == status
    read_as(answer.json, Problem)
    assert "moon" not in answer.text
    for method, path, _ in operations(shown):
        check(shown, method, path, answer)


async def test_who_may_not_call(tmp_path: Path, shown: dict[str, Any]) -> None:
    """No token, one for something else, too many requests: each call refuses as the document says, or asks for none."""
    token = new_token()
    bearer = {"Authorization": f"Bearer {token}"}
    write_entries(tmp_path / "tokens.json", [entry_of(token, name="other", scopes=[Scope.ADMIN])])
    limits = {"per-token": "20/hour", "per-address": "1000/hour"}
    async with Nodes(tmp_path, workers=1, tokens_file="tokens.json", rate_limits=limits) as nodes:
        for method, path, operation in operations(shown):
            asks = operation["security"] != [{}]
            for headers, status in (({}, 401), (bearer, 403)):
                answer = await nodes.ask(method.upper(), nodes.api["0"].node.base + path, headers=headers)
                assert answer.status == (status if asks else 200), (path, answer)
                check(shown, method, path, answer)
        for _ in range(20):
            last = await nodes.get(headers=bearer)

    assert last.status == 429
    check(shown, "get", "/analytics", last)


async def test_methods(nodes: Nodes, shown: dict[str, Any]) -> None:
    """HEAD is answered as GET is, without a body; what a path does not have is 405, and Allow has what it has."""
    for path, item in shown["paths"].items():
        url = nodes.api["0"].node.base + path
        allowed = {method.upper() for method in item} | ({"HEAD"} if "get" in item else set())
        for method in ("HEAD", "PUT", "DELETE", "PATCH", "TRACE", "GET", "POST"):
            answer = await nodes.ask(method, url)
            if method not in allowed:
                assert answer.status == 405, (method, path)
                assert set(answer.headers["Allow"].split(",")) == allowed
            elif method != "POST":
                assert answer.status == 200, (method, path)
                assert method == "GET" or answer.body == b""


# The page


async def test_the_page(nodes: Nodes) -> None:
    """It and its files come from this node, are asked for again with their tag, and may ask nobody else."""
    base = nodes.api["0"].node.base
    page = await nodes.ask("GET", f"{base}/docs")
    found = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)

    assert "default-src 'none'; script-src 'self';" in page.headers["Content-Security-Policy"]
    assert sorted(found) == ["data:,", "docs/page.css", "docs/viewer.js", "openapi.json", "openapi.json"]
    for path in ("docs", "docs/page.css", "docs/viewer.js", "openapi.json"):
        answer = await nodes.ask("GET", f"{base}/{path}")
        again = await nodes.ask("GET", f"{base}/{path}", headers={"If-None-Match": answer.headers["ETag"]})
        other = await nodes.ask("GET", f"{base}/{path}", headers={"If-None-Match": '"another"'})
        assert (answer.status, again.status, other.status) == (200, 304, 200)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert again.body == b""
        assert again.headers["ETag"] == answer.headers["ETag"]


def test_the_vendored_files() -> None:
    """Each is the one whose checksum stands beside it, with its licence and its version."""
    folders = list(VENDOR.iterdir())
    assert folders
    for folder in folders:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        sums = {name: digest for digest, name in (line.split() for line in lines)}
        files = {path.name for path in folder.iterdir()}
        assert files == {*sums, "LICENSE", "VERSION", "SHA256SUMS"}
        for name, digest in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
