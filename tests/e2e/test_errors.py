"""Every documented error answer: a problem of RFC 9457 that names what is wrong, and never a user.

``Answer.problem`` checks the form, and that the user name does not come back, for every answer of every test.
The name is also in queries, ids, paths and bodies here; what the nodes have written is searched for it at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from common.wire import MEDIA_TYPE, NO_ID, Outcome, Question, encode
from tests.support.cluster import FIRST, HOUR, Answer, Cluster
from tests.support.envoy import Envoy
from tests.support.events import CANARY, Post, tally, user
from tests.support.proxy import read_message

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TOKEN = "the-nodes-own-token"
BODY_SECONDS = 10  # that a body may take

U = user("somebody")
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Two workers that want a token from each other's clients; slices from 1000 on have both."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "token").write_text(TOKEN + "\n")
    routing = {0: ["0"], 1000: ["0", "1"]}
    async with Cluster(folder, workers=2, routing=routing, internal_token_file="token") as cluster:
        yield cluster


async def raw(port: int, request: bytes) -> Answer:
    """Any bytes as a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head, _, body = (await read_message(reader)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return Answer(status=int(lines[0].split(" ")[1]), body=body, headers=headers)


T = FIRST
MALFORMED = {
    "no timestamp": (f"user={U}&click", "timestamp"),
    "empty timestamp": (f"timestamp=&user={U}&click", "timestamp"),
    "timestamp twice": (f"timestamp={T}&timestamp={T}&user={U}&click", "timestamp"),
    "timestamp of no form": (f"timestamp={CANARY}&user={U}&click", "timestamp"),
    "timestamp without offset": (f"timestamp=2017-05-20T00:00:00&user={U}&click", "timestamp"),
    "timestamp that does not exist": (f"timestamp=2017-02-30T00:00:00Z&user={U}&click", "timestamp"),
    "no user": (f"timestamp={T}&click&of={CANARY}", "user"),
    "empty user": (f"timestamp={T}&user=&click", "user"),
    "user twice": (f"timestamp={T}&user={U}&user={U}&click", "user"),
    "two users": (f"timestamp={T}&user={U}&user={U}2&click", "user"),
    "a user of 257 bytes": (f"timestamp={T}&user={CANARY}{'x' * (257 - len(CANARY))}&click", "user"),
    "no type": (f"timestamp={T}&user={U}", "event"),
    "flag twice": (f"timestamp={T}&user={U}&click&click", "click"),
    "two flags": (f"timestamp={T}&user={U}&click&impression", "impression"),
    "flag and event": (f"timestamp={T}&user={U}&click&event=click", "event"),
    "event twice": (f"timestamp={T}&user={U}&event=click&event=click", "event"),
    "unknown type": (f"timestamp={T}&user={U}&event={CANARY}", "event"),
    "empty id": (f"timestamp={T}&user={U}&click&id=", "id"),
    "id twice": (f"timestamp={T}&user={U}&click&id={CANARY}&id={CANARY}", "id"),
    "user not UTF-8": (f"timestamp={T}&user={U}%FF&click", None),
    "user a lone surrogate": (f"timestamp={T}&user={U}%ED%A0%80&click", None),
    "user overlong UTF-8": (f"timestamp={T}&user={U}%C0%AF&click", None),
    "property not UTF-8": (f"timestamp={T}&user={U}&click&colour=%FF", None),
    "too many fields": (f"timestamp={T}&user={U}&click" + "&x=1" * 200, None),
}


@pytest.mark.parametrize("query", [query for query, _ in MALFORMED.values()], ids=list(MALFORMED))
@pytest.mark.parametrize("place", ["query", "form"])
async def test_a_malformed_event(cluster: Cluster, query: str, place: str) -> None:
    """An event that cannot be understood is 400, and the answer names the field; the same in a query and in a form."""
    if place == "query":
        answer = await cluster.post(query)
    else:
        answer = await cluster.ask("POST", cluster.api["0"].url, body=query, headers={"Content-Type": FORM})

    assert (answer.status, answer.problem) == (400, "malformed"), answer
    assert answer.json.get("field") == dict(MALFORMED.values())[query]


MALFORMED_JSON = {
    "not JSON": (f'{{"user": "{U}', None),
    "an array": (f'["{U}"]', None),
    "NaN": (f'{{"timestamp": NaN, "user": "{U}", "event": "click"}}', None),
    "nested deeply": ("[" * 5000 + f'"{U}"' + "]" * 5000, None),
    "user is a number": (f'{{"timestamp": {T}, "user": 7, "event": "click", "of": "{U}"}}', "user"),
    "user is null": (f'{{"timestamp": {T}, "user": null, "event": "click", "of": "{U}"}}', "user"),
    "user twice": (f'{{"timestamp": {T}, "user": "{U}", "user": "{U}", "event": "click"}}', "user"),
    "user a lone surrogate": (f'{{"timestamp": {T}, "user": "{U}\\ud800", "event": "click"}}', "user"),
    "timestamp is true": (f'{{"timestamp": true, "user": "{U}", "event": "click"}}', "timestamp"),
    "event is an array": (f'{{"timestamp": {T}, "user": "{U}", "event": ["click"]}}', "event"),
}


@pytest.mark.parametrize("body", [body for body, _ in MALFORMED_JSON.values()], ids=list(MALFORMED_JSON))
async def test_a_malformed_json_event(cluster: Cluster, body: str) -> None:
    """So is JSON that is none, or whose fields have other types."""
    answer = await cluster.ask("POST", cluster.api["0"].url, body=body, headers={"Content-Type": JSON})

    assert (answer.status, answer.problem) == (400, "malformed"), answer
    assert answer.json.get("field") == dict(MALFORMED_JSON.values())[body]


@pytest.mark.parametrize("kind", [FORM, JSON])
async def test_a_body_that_is_not_utf_8(cluster: Cluster, kind: str) -> None:
    """Bytes that are not UTF-8 are 400, never a name with replacement characters in it."""
    body = f'{{"timestamp": {T}, "user": "{U}' if kind == JSON else f"timestamp={T}&click&user={U}"
    answer = await cluster.ask(
        "POST", cluster.api["0"].url, body=body.encode() + b'\xff"}', headers={"Content-Type": kind}
    )

    assert (answer.status, answer.problem) == (400, "malformed"), answer


async def test_a_field_in_query_and_body_is_given_twice(cluster: Cluster) -> None:
    """The fields of query and body are one event's: a user in both is 400."""
    answer = await cluster.post(f"timestamp={T}&user={U}", body=f"user={U}&click", headers={"Content-Type": FORM})

    assert (answer.status, answer.problem, answer.json["field"]) == (400, "malformed", "user")


@pytest.mark.parametrize(
    "line",
    [
        f"POST /analytics?timestamp={T}&user={U}\xff&click HTTP/1.1".encode("latin-1"),
        f"POST /analytics?user={U} {U} HTTP/1.1".encode(),
        f"{CANARY} /analytics HTTP/1.1".encode(),
        f"POST /analytics?user={U}{'x' * 100_000} HTTP/1.1".encode(),
        f"{U}".encode(),
    ],
    ids=["raw byte", "space", "method", "too long", "no HTTP"],
)
async def test_what_is_hardly_http(cluster: Cluster, line: bytes) -> None:
    """A request line that is broken, or far too long, is answered with a problem too, which does not quote it."""
    answer = await raw(cluster.api["0"].port, line + b"\r\nHost: x\r\nContent-Length: 0\r\n\r\n")

    assert answer.status in (400, 405), answer
    assert answer.problem


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (f"timestamp={CANARY}", "timestamp"),
        (f"timestamp={T}&timestamp={T}", "timestamp"),
        (f"timestamp={T}&format={CANARY}", "format"),
        (f"timestamp={T}&partial={CANARY}", "partial"),
    ],
)
@pytest.mark.parametrize("path", ["", "/perworker", "/allslices"])
async def test_a_malformed_question(cluster: Cluster, path: str, query: str, field: str) -> None:
    """A question whose parameters cannot be read is 400 and names the parameter."""
    answer = await cluster.get(f"{path}?{query}")

    assert (answer.status, answer.problem, answer.json["field"]) == (400, "malformed", field)


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("api", "GET", f"/{CANARY}"),
        ("api", "POST", f"/analytics/{CANARY}"),
        ("worker", "GET", f"/{CANARY}"),
        ("worker", "POST", f"/worker/{CANARY}"),
    ],
)
async def test_no_such_path(cluster: Cluster, kind: str, method: str, path: str) -> None:
    """What is not there is 404, and the answer does not quote the path."""
    node = cluster.api["0"] if kind == "api" else cluster.worker["0"]
    answer = await cluster.ask(method, node.base + path)

    assert (answer.status, answer.problem) == (404, "not-found")


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("api", "PUT", "/analytics"),
        ("api", "DELETE", "/analytics/perworker"),
        ("api", "POST", "/cluster"),
        ("worker", "DELETE", "/worker"),
        ("worker", "POST", "/worker/slices"),
    ],
)
async def test_no_such_method(cluster: Cluster, kind: str, method: str, path: str) -> None:
    """A method that is not for this path is 405, with those that are in Allow."""
    node = cluster.api["0"] if kind == "api" else cluster.worker["0"]
    answer = await cluster.ask(method, f"{node.base}{path}?user={U}")

    assert (answer.status, answer.problem) == (405, "method-not-allowed")
    assert "GET" in answer.headers["Allow"]


async def test_a_body_of_another_type(cluster: Cluster) -> None:
    """A body that is neither form nor JSON is 415, whatever it holds."""
    body = f'{{"timestamp": {T}, "user": "{U}", "event": "click"}}'
    answers = [
        await cluster.ask("POST", cluster.api["0"].url, body=body, headers={"Content-Type": kind})
        for kind in ("text/plain", "application/xml", f"x/{CANARY}", "multipart/mixed; boundary=x")
    ]

    assert {(answer.status, answer.problem) for answer in answers} == {(415, "media-type")}


async def test_a_body_that_is_too_large(cluster: Cluster) -> None:
    """An event of more than 64 KiB is 413, announced or in chunks, and the connection does not wait for all of it."""
    api = cluster.api["0"]
    head = f"POST /analytics HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\n"
    body = f"timestamp={T}&user={U}&click&property=".encode() + b"x" * 70_000
    answers = [
        await cluster.ask("POST", api.url, body=body, headers={"Content-Type": FORM}),
        await raw(api.port, f"{head}Content-Length: 1000000000\r\n\r\n".encode() + body[:1000]),
        await raw(
            api.port, f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        ),
    ]

    assert [(answer.status, answer.problem) for answer in answers] == [(413, "too-large")] * 3


async def test_a_body_that_does_not_arrive(cluster: Cluster) -> None:
    """A body that stops arriving is 408 after ten seconds, at API nodes and workers."""
    requests = [
        (cluster.api["0"].port, f"POST /analytics HTTP/1.1\r\nContent-Type: {FORM}"),
        (
            cluster.worker["0"].port,
            f"POST /worker/batches HTTP/1.1\r\nContent-Type: {MEDIA_TYPE}\r\nAuthorization: Bearer {TOKEN}",
        ),
    ]
    begun = time.monotonic()
    answers = await asyncio.gather(
        *(raw(port, f"{head}\r\nHost: x\r\nContent-Length: 100\r\n\r\nuser={U}".encode()) for port, head in requests)
    )
    seconds = time.monotonic() - begun

    assert [(answer.status, answer.problem) for answer in answers] == [(408, "too-slow")] * 2
    assert BODY_SECONDS - 1 < seconds < BODY_SECONDS + 5


async def test_a_time_outside_the_window(cluster: Cluster) -> None:
    """A timestamp more than a day ahead is 422 outside-window; the day itself is not."""
    ahead = await cluster.post(f"timestamp={time.time() + 86_500}&user={U}&click")
    within = await cluster.post(f"timestamp={time.time() + 86_300}&user={U}&click")

    assert (ahead.status, ahead.problem, ahead.json["field"]) == (422, "outside-window", "timestamp")
    assert within.status == 202


async def test_a_window_into_the_past_and_too_many_slices(tmp_path: Path) -> None:
    """With max-past-seconds an old event is 422, and so is one that would open one slice more than max-slices.

    Events of the current slice are always taken.
    """
    now = time.time()
    async with Cluster(
        tmp_path, first_slice="system", length_of_time_slice=60, max_past_seconds=10_000, max_slices=3
    ) as cluster:
        old = await cluster.post(f"timestamp={now - 10_100}&user={U}&click")
        slices = [await cluster.post(f"timestamp={now - 60 * back}&user={U}&click") for back in range(2, 8)]
        known = await cluster.post(f"timestamp={now - 120}&user={U}&click")
        current = await cluster.post(f"timestamp={time.time()}&user={U}&click")
        nothing = await cluster.summary(now - 60 * 7)

    assert (old.status, old.problem, old.json["field"]) == (422, "outside-window", "timestamp")
    taken = [answer.status for answer in slices].count(202)
    assert 1 <= taken <= 3
    assert [answer.status for answer in slices] == [202] * taken + [422] * (6 - taken)
    assert {answer.problem for answer in slices[taken:]} == {"too-many-slices"}
    assert (known.status, current.status) == (202, 202)
    assert nothing == tally(0, 0, 0)


# Workers


async def test_workers_want_the_token(cluster: Cluster, hour: int) -> None:
    """With an internal token, what changes or asks a worker is 401 without, 403 with another; reading is open."""
    worker = cluster.worker["0"]
    paths = ["/batches", "/summaries", "/join", "/registry/pins", "/registry/workers", "/registry/claims"]
    urls = [worker.url + path for path in paths]
    urls.append(f"{worker.url}?slice=1&user={'0' * 32}&click")
    for url in urls:
        for headers, status, problem in (
            ({}, 401, "unauthorized"),
            ({"Authorization": f"Basic {TOKEN}"}, 401, "unauthorized"),
            ({"Authorization": "Bearer"}, 401, "unauthorized"),
            ({"Authorization": f"Bearer {CANARY}"}, 403, "forbidden"),
            ({"Authorization": f"Bearer {TOKEN}x"}, 403, "forbidden"),
        ):
            answer = await cluster.ask("POST", url, body=U, headers=headers)
            assert (answer.status, answer.problem) == (status, problem), (url, headers)
            assert TOKEN not in answer.text
            if status == 401:
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("?slice=1", "/slices", "/identity", "/registry"):
        assert (await cluster.ask("GET", worker.url + path)).status == 200
    assert (await cluster.post(f"timestamp={hour}&user={U}&click")).status == 202


def authorised(kind: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}


async def test_what_a_worker_cannot_read(cluster: Cluster) -> None:
    """At a worker: no envelope is 400, another media type 415, more than 8 MiB 413; nothing of it is quoted."""
    url = cluster.worker["0"].url
    canary = CANARY.encode()
    answers = [
        await cluster.ask("POST", f"{url}/batches", body=canary, headers=authorised(MEDIA_TYPE)),
        await cluster.ask("POST", f"{url}/summaries", body=canary, headers=authorised(MEDIA_TYPE)),
        await cluster.ask("POST", f"{url}/join", body=f'{{"id": "{CANARY}"}}', headers=authorised(JSON)),
        await cluster.ask("POST", f"{url}/batches", body=canary, headers=authorised(JSON)),
        await cluster.ask("POST", f"{url}/join", body=canary, headers=authorised("text/plain")),
        await raw(
            cluster.worker["0"].port,
            f"POST /worker/batches HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {9 << 20}\r\n\r\n".encode()
            + canary * ((9 << 20) // len(canary) + 1),
        ),
    ]

    assert [(answer.status, answer.problem) for answer in answers] == [
        (400, "malformed"),
        (400, "malformed"),
        (400, "malformed"),
        (415, "media-type"),
        (415, "media-type"),
        (413, "too-large"),
    ]


@pytest.mark.parametrize(
    "query",
    [f"user={CANARY}", f"slice={CANARY}", "slice=1&slice=2", "slice=", "slice=9223372036854775808", "slice=%FF"],
)
@pytest.mark.parametrize("path", ["/worker", "/workers"])
async def test_a_question_that_a_worker_cannot_read(cluster: Cluster, path: str, query: str) -> None:
    """GET /worker without a readable slice is 400."""
    answer = await cluster.ask("GET", f"{cluster.worker['0'].base}{path}?{query}")

    assert (answer.status, answer.problem) == (400, "malformed")


async def test_a_worker_of_another_cluster_or_name(cluster: Cluster, hour: int) -> None:
    """A question that means another cluster, or another worker, is 409; a batch is refused and applies nothing."""
    worker = cluster.worker["0"]
    pins = (await cluster.state())["pins"]
    right = {"cluster": pins["cluster"], "worker": pins["workers"]["0"]}
    answers = [
        await cluster.ask(
            "POST",
            f"{worker.url}/summaries",
            body=encode(Question(**{**right, name: CANARY}, claims=0)),
            headers=authorised(MEDIA_TYPE),
        )
        for name in right
    ]
    envoy = await Envoy.of(cluster, worker, token=TOKEN)
    batch = envoy.batch((hour - FIRST) // HOUR, [Post(at=hour, user=U)])
    refused = await envoy.send(batch, uuid=pins["workers"]["1"])
    accepted = await envoy.send(batch)

    assert [(answer.status, answer.problem) for answer in answers] == [(409, "wrong-cluster"), (409, "wrong-worker")]
    assert [receipt.outcome for receipt in (*refused, *accepted)] == [Outcome.WRONG_WORKER, Outcome.APPLIED]


async def test_the_registry_is_at_one_worker(cluster: Cluster) -> None:
    """A worker that does not host the registry answers 404 for it."""
    answer = await cluster.ask("GET", f"{cluster.worker['1'].url}/registry")

    assert (answer.status, answer.problem) == (404, "not-found")


async def test_the_unnumbered_event_for_debugging(cluster: Cluster) -> None:
    """POST /worker counts an event of a user key that belongs here, a repeat again; else 409, and nothing changes."""
    worker, other = cluster.worker.values()
    slice_id = 1001
    at = FIRST + slice_id * HOUR
    envoy = await Envoy.of(cluster, worker, token=TOKEN)
    mine = [n for n in range(50) if envoy.owns(slice_id, user(n), ["0", "1"])]
    keys = [envoy.keys(slice_id).user_key(user(n).encode()).hex() for n in mine]
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def count(node: str, slice_id: int, key: str) -> Answer:
        url = f"{cluster.worker[node].url}?slice={slice_id}&user={key}&click"
        return await cluster.ask("POST", url, headers=headers)

    unheld = await count("0", slice_id, keys[0])
    await cluster.post(f"timestamp={at}&user={user(mine[0])}&click")
    first = await count("0", slice_id, keys[0])
    await count("0", slice_id, keys[1])
    again = await count("0", slice_id, keys[1])
    elsewhere = await count("1", slice_id, keys[0])
    unreadable = await count("0", slice_id, NO_ID.hex()[1:])

    assert (unheld.status, unheld.problem) == (409, "conflict")
    assert (first.status, first.text) == (202, tally(1, 2, 0))
    assert (again.status, again.text) == (202, tally(2, 4, 0))
    assert (elsewhere.status, elsewhere.problem) == (409, "conflict")
    assert (unreadable.status, unreadable.problem) == (400, "malformed")
    assert (await cluster.ask("GET", f"{worker.url}?slice={slice_id}")).text == tally(2, 4, 0)
    assert (await cluster.ask("GET", f"{other.url}?slice={slice_id}")).text == tally(0, 0, 0)


# Privacy


async def test_no_name_anywhere(cluster: Cluster, hour: int) -> None:
    """After taken and refused events, lost connections and broken requests, no page, log or file has a user's name.

    Nor has a log or metric an address or a query string.
    """
    api = cluster.api["0"]
    assert (await cluster.post(f"timestamp={hour}&user={U}&click&id={U}&{CANARY}={CANARY}")).status == 202
    headers = {"Referer": CANARY, "User-Agent": U, "X-Forwarded-For": "192.0.2.77"}
    assert (await cluster.post(f"timestamp={hour}&user={U}", headers=headers)).status == 400
    assert (await cluster.get(f"?timestamp={hour}&{CANARY}", headers={"Accept": CANARY})).status == 200
    _, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(f"POST /analytics?user={U} HTTP/1.1\r\nHost: {CANARY}\r\nContent-Length: 50\r\n\r\n{U}".encode())
    writer.close()
    pages = [
        (await cluster.ask("GET", f"{node.base}{path}")).text
        for node in cluster.nodes
        for path in ("/metrics", "/readyz", "/cluster", "/worker/slices", "/worker/identity", "/worker/registry")
    ]
    logs = [line for node in cluster.nodes for line in node.log_text().splitlines()]

    assert not [text for text in (*pages, *logs) if CANARY in text or "192.0.2.77" in text]
    assert not [line for line in logs if str(hour) in line or "click" in line]
    assert not [line for line in logs if "127.0.0.1" in line and "event=listening" not in line]
    cluster.assert_no_name_on_disk()
