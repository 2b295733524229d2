"""``POST /events`` with real processes: in whatever form events come, what is counted is what a plain model says."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Answer, Cluster
from tests.support.codings import CODINGS
from tests.support.events import CANARY, Model, Post, tally, user
from tests.support.forms import TYPE, form_of
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

LINES_MAX = 65_536
BODY_MAX = 16 << 20
NDJSON, JSON, FORM = "application/x-ndjson", "application/json", "application/x-www-form-urlencoded"

ALL, ONE = 0, 5000  # the slices from which on events go to all workers, and to one
MANY = 6000  # three hundred slices of one test

# Three slices for each test that asks; they stay below ONE.
_slices = itertools.count(2000, 3)


@pytest.fixture
def hour() -> int:
    """The first second of three slices that no other test uses."""
    return FIRST + HOUR * next(_slices)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("events")
    every = ["0", "1", "2", "3"]
    routing = {ALL: every, ONE: ["3"], MANY: every}
    async with Cluster(folder, apis=2, workers=4, routing=routing, cache_ttl_seconds=0.2) as cluster:
        yield cluster


async def send(
    cluster: Cluster,
    body: bytes,
    *,
    kind: str = NDJSON,
    coding: str | None = None,
    api: str = "0",
    path: str = "/events",
) -> Answer:
    headers = {"Content-Type": kind} | ({"Content-Encoding": coding} if coding else {})
    sent: Any = io.BytesIO(CODINGS[coding](body) if coding else body)  # aiohttp warns of large bodies as bytes
    return await cluster.ask("POST", f"{cluster.api[api].base}{path}", body=sent, headers=headers)


async def shown(cluster: Cluster, at: int, text: str) -> None:
    """Every API node answers so."""

    async def check() -> None:
        for api in cluster.api:
            assert await cluster.summary(at, api=api) == text

    await eventually(check)


def line(at: object, number: int | str, kind: str = "click", **more: object) -> dict[str, Any]:
    return {"timestamp": at, "user": user(number), "event": kind, **more}


def ndjson(lines: list[Any]) -> bytes:
    return b"".join((one if isinstance(one, str) else json.dumps(one)).encode() + b"\n" for one in lines)


def said(answer: Answer) -> list[tuple[int, str, str | None, bool]]:
    """What the answer says of each event that was not taken."""
    assert CANARY not in answer.text
    for error in answer.json["errors"]:
        assert error.keys() == {"index", "type", "field", "detail", "retry"}
        assert error["detail"]
    return [
        (one["index"], one["type"].removeprefix("urn:tallyslice:problem:"), one["field"], one["retry"])
        for one in answer.json["errors"]
    ]


# --- each form in each coding


def _forms(at: int) -> dict[str, tuple[bytes, int]]:
    """Content-Type -> a body, and how many events are in it."""
    two = [line(at, 1), line(at, 2)]
    one = {name: str(value) for name, value in line(at, 1, colour="red").items()}
    return {
        NDJSON: (ndjson(two), 2),
        "application/jsonl": (ndjson(two), 2),
        "application/x-jsonlines; charset=utf-8": (ndjson(two), 2),
        JSON: (json.dumps(two).encode(), 2),
        "application/json; charset=UTF-8": (json.dumps(two[0]).encode(), 1),
        FORM: (urlencode(one).encode(), 1),
        TYPE: (form_of(one.items()), 1),
    }


@pytest.mark.parametrize("coding", [None, *CODINGS])
@pytest.mark.parametrize("kind", _forms(0))
@pytest.mark.parametrize("path", ["/events", "/events/"])
async def test_every_type_in_every_coding(
    cluster: Cluster, hour: int, kind: str, coding: str | None, path: str
) -> None:
    """The same events are counted, in whatever form and coding they come."""
    body, events = _forms(hour)[kind]
    answer = await send(cluster, body, kind=kind, coding=coding, path=path)

    assert (answer.status, answer.json) == (202, {"accepted": events, "repeated": 0, "rejected": 0, "errors": []})
    assert answer.headers["X-Durability"] == "worker"
    assert answer.headers["Content-Type"].startswith("application/json")
    assert await cluster.summary(hour) == tally(events, events, 0)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/vnd.tallyslice.v1+msgpack", "multipart/mixed"]
)
async def test_another_type_is_415(cluster: Cluster, hour: int, kind: str) -> None:
    answer = await send(cluster, ndjson([line(hour, 1)]), kind=kind)

    assert (answer.status, answer.problem) == (415, "media-type")
    assert await cluster.summary(hour) == tally(0, 0, 0)


async def test_another_coding_is_415(cluster: Cluster, hour: int) -> None:
    answer = await cluster.ask(
        "POST",
        f"{cluster.api['0'].base}/events",
        body=ndjson([line(hour, 1)]),
        headers={"Content-Type": NDJSON, "Content-Encoding": "br"},
    )

    assert (answer.status, answer.problem) == (415, "media-type")


# --- against a model


@dataclass(slots=True, kw_only=True)
class Written:
    """One request: its body, and what must be said of it."""

    kind: str
    body: bytes
    taken: list[Post] = field(default_factory=list)
    refused: list[tuple[int, str, str | None, bool]] = field(default_factory=list)


def _instant(rng: random.Random, at: int) -> object:
    """A time as one of the forms that a client may write it in."""
    micros = rng.randrange(HOUR * 10**6)
    seconds = at + micros // 10**6
    return rng.choice(
        [
            seconds,
            str(seconds),
            seconds * 1000 + micros % 1000,
            seconds + 0.5,
            f"{seconds}.{micros % 10**6:06}",
            datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z"),
            datetime.fromtimestamp(seconds + 7200, UTC).isoformat().replace("+00:00", "+02:00"),
        ]
    )


def _event(rng: random.Random, hour: int) -> tuple[dict[str, Any], Post]:
    at = hour + HOUR * rng.randrange(3)
    # Of few names, so that users, and events with an id, come again.
    number, kind = int(rng.paretovariate(0.5)) % 500, rng.choice(["click", "impression"])
    identity = user(f"id-{rng.randrange(40)}") if rng.random() < 0.5 else None
    written = {
        rng.choice(["timestamp", "dt", "ts"]): _instant(rng, at),
        rng.choice(["user", "userid", "userId"]): user(number),
        "event": kind,
    }
    if identity is not None:
        written[rng.choice(["id", "messageId"])] = identity
    properties = {"colour": "größe", "price": 1.5, "nested": {"user": [CANARY]}, "click": False}
    written |= {name: value for name, value in properties.items() if rng.random() < 0.2}
    items = list(written.items())
    rng.shuffle(items)
    return dict(items), Post(at=at, user=user(number), type=kind, id=identity)


def _bad(rng: random.Random, hour: int) -> tuple[Any, tuple[str, str | None, bool]]:
    """What is no event, and how it is refused."""
    malformed = "malformed"
    return rng.choice(
        [
            ({}, (malformed, "timestamp", False)),
            (line(hour, 1) | {"user": ""}, (malformed, "user", False)),
            (line(hour, 1) | {"user": None}, (malformed, "user", False)),
            (line(hour, 1) | {"user": 7}, (malformed, "user", False)),
            (line(hour, 1) | {"userId": user(1)}, (malformed, "user", False)),
            (line(hour, 1, messageId="a", id="a"), (malformed, "id", False)),
            (line(hour, 1, id="x" * 257), (malformed, "id", False)),
            (line(hour, 1, ts=hour), (malformed, "timestamp", False)),
            (line("tomorrow", 1), (malformed, "timestamp", False)),
            (line(True, 1), (malformed, "timestamp", False)),  # noqa: FBT003 - the value of a field
            (line(hour, 1, kind=CANARY), (malformed, "event", False)),
            (line(hour, 1) | {"event": None}, (malformed, "event", False)),
            (line(int(time.time()) + 10 * 86400, 1), ("outside-window", "timestamp", False)),
            ([line(hour, 1)], (malformed, None, False)),
            (CANARY, (malformed, None, False)),
        ]
    )


def _request(rng: random.Random, hour: int) -> Written:
    kind = rng.choice([NDJSON, NDJSON, NDJSON, JSON, FORM, TYPE])
    if kind in (FORM, TYPE):
        event, post = _event(rng, hour)
        fields = {name: str(value) for name, value in event.items()}
        body = urlencode(fields).encode() if kind == FORM else form_of(fields.items())
        return Written(kind=kind, body=body, taken=[post])
    written = Written(kind=kind, body=b"")
    values: list[Any] = []
    for index in range(rng.choice([1, 20, 300, 3000])):
        if index and rng.random() < 0.05:
            value, refusal = _bad(rng, hour)
            written.refused.append((index, *refusal))
        else:
            value, post = _event(rng, hour)
            written.taken.append(post)
        values.append(value)
    texts = [json.dumps(value, ensure_ascii=rng.random() < 0.5).encode() for value in values]
    if kind == JSON:
        written.body = b"[" + rng.choice([b",", b",\n"]).join(texts) + b"]"
    else:
        end = rng.choice([b"\n", b"\r\n", b"\n\n", b" \n\r\n"])
        written.body = rng.choice([b"", b"\xef\xbb\xbf", b"\n"]) + end.join(texts) + rng.choice([b"", end])
    return written


@pytest.mark.parametrize("seed", range(3))
async def test_all_forms_together_are_counted_exactly(cluster: Cluster, hour: int, seed: int) -> None:
    """Three slices on four workers, through two nodes at once: good lines and bad ones, repeats and properties."""
    rng = random.Random(seed)
    requests = [_request(rng, hour) for _ in range(60)]
    codings = [rng.choice([None, *CODINGS]) for _ in requests]
    free = asyncio.Semaphore(8)

    async def post(number: int, written: Written) -> Answer:
        async with free:
            return await send(
                cluster, written.body, kind=written.kind, coding=codings[number], api=rng.choice(["0", "1"])
            )

    answers = await asyncio.gather(*(post(number, written) for number, written in enumerate(requests)))
    model = Model(first=FIRST, length=HOUR)
    posts = [one for written in requests for one in written.taken]
    model.add(posts)

    for written, answer in zip(requests, answers, strict=True):
        assert answer.status == 202, answer
        assert (answer.json["accepted"], answer.json["rejected"]) == (len(written.taken), len(written.refused))
        assert said(answer) == written.refused
    counted = sum((model.counts[at] for at in model.slices), Counter[str]())
    assert sum(answer.json["repeated"] for answer in answers) == len(posts) - counted.total()
    for at in range(3):
        await shown(cluster, hour + at * HOUR, model.text((hour - FIRST) // HOUR + at))


# --- bounds


async def test_as_many_lines_as_there_may_be(cluster: Cluster, hour: int) -> None:
    """65,536 of them are counted; of one more, none is."""
    lines = [line(hour + n % 3 * HOUR, n % 20_000) for n in range(LINES_MAX)]
    for body, kind in ((ndjson([*lines, lines[0]]), NDJSON), (json.dumps([*lines, lines[0]]).encode(), JSON)):
        too_many = await send(cluster, body, kind=kind)
        assert (too_many.status, too_many.problem) == (413, "too-large")
    assert await cluster.summary(hour) == tally(0, 0, 0)

    whole = await send(cluster, ndjson(lines), coding="zstd")

    assert (whole.status, whole.json["accepted"], whole.json["errors"]) == (202, LINES_MAX, [])
    for at in range(3):
        mine = lines[at::3]
        await shown(cluster, hour + at * HOUR, tally(len({one["user"] for one in mine}), len(mine), 0))


@pytest.mark.parametrize("coding", [None, "gzip", "zstd"])
async def test_as_many_bytes_as_there_may_be(cluster: Cluster, hour: int, coding: str | None) -> None:
    """16 MiB, as they came and inflated; one byte more is 413, and nothing is counted."""
    event = ndjson([line(hour, 1)])
    whole = event + b" " * (BODY_MAX - len(event))

    taken = await send(cluster, whole, coding=coding)
    too_large = await send(cluster, whole + b" ", coding=coding)

    assert (taken.status, taken.json["accepted"]) == (202, 1)
    assert (too_large.status, too_large.problem) == (413, "too-large")
    assert await cluster.summary(hour) == tally(1, 1, 0)


async def test_the_other_calls_keep_to_their_small_bound(cluster: Cluster, hour: int) -> None:
    """What the bulk call may take is 413 elsewhere, though it is the same node."""
    body = json.dumps(line(hour, 1, p="x" * 70_000)).encode()
    answers = [
        await cluster.ask("POST", cluster.api["0"].url, body=body, headers={"Content-Type": JSON}),
        await cluster.ask(
            "POST",
            cluster.api["0"].url,
            body=CODINGS["zstd"](body),
            headers={"Content-Type": JSON, "Content-Encoding": "zstd"},
        ),
    ]

    assert [(answer.status, answer.problem) for answer in answers] == [(413, "too-large")] * 2


# --- nothing taken


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (NDJSON, b""),
        (NDJSON, b"\n \r\n"),
        (NDJSON, b"\xef\xbb\xbf"),
        (JSON, b""),
        (JSON, b"[]"),
        (JSON, b"[" + CANARY.encode()),
        (NDJSON, b"{}\n" + CANARY.encode()),
        (FORM, b""),
        (FORM, f"user={CANARY}".encode()),
        (TYPE, form_of([])),
        (TYPE, form_of([("user", CANARY)])[:-4]),
    ],
)
async def test_where_nothing_is_an_event_it_is_400(cluster: Cluster, kind: str, body: bytes) -> None:
    """With the same list of errors where there are lines to speak of."""
    answer = await send(cluster, body, kind=kind)

    assert (answer.status, answer.problem) == (400, "malformed")
    if "errors" in answer.json:
        assert (answer.json["accepted"], answer.json["rejected"]) == (0, len(said(answer)))


async def test_a_list_of_what_is_wrong_comes_with_400(cluster: Cluster, hour: int) -> None:
    """A client reads the same members, whether something was taken or not."""
    answer = await send(cluster, ndjson([line(hour, 1, kind="x"), {"user": CANARY}, "{"]))

    assert (answer.status, answer.problem, answer.json["accepted"], answer.json["rejected"]) == (400, "malformed", 0, 3)
    assert said(answer) == [
        (0, "malformed", "event", False),
        (1, "malformed", "timestamp", False),
        (2, "malformed", None, False),
    ]


# --- repeats


async def test_repeats_are_told_and_count_once(cluster: Cluster, hour: int) -> None:
    """Within a request, from an earlier one, and from one through another node: accepted, and known already."""
    lines = [line(hour + n % 3 * HOUR, n, id=user(f"id-{n}")) for n in range(300)]
    first = await send(cluster, ndjson(lines + lines[:50] + [line(hour, 0)]))
    again = await send(cluster, json.dumps(lines).encode(), kind=JSON, coding="gzip", api="1")

    assert (first.json["accepted"], first.json["repeated"]) == (351, 50)
    assert (again.json["accepted"], again.json["repeated"]) == (300, 300)
    for at in range(3):
        await shown(cluster, hour + at * HOUR, tally(100, 101 if at == 0 else 100, 0))


async def test_an_id_is_the_same_by_both_its_names_and_in_every_call(cluster: Cluster, hour: int) -> None:
    """What was sent as one event, or under another name, is a repeat."""
    post = Post(at=hour, user=user(1), id=user("id"))
    single = await cluster.post(post.query)
    answers = [
        await send(cluster, ndjson([line(hour, 1, id=user("id"))])),
        await send(cluster, ndjson([{"ts": hour, "userid": user(1), "event": "click", "messageId": user("id")}])),
    ]

    assert single.status == 202
    assert [answer.json["repeated"] for answer in answers] == [1, 1]
    assert await cluster.summary(hour) == tally(1, 1, 0)


async def test_repeats_are_told_over_many_batches(cluster: Cluster) -> None:
    """Of more events for one worker than a batch holds, wherever in them the repeats stand."""
    at = FIRST + ONE * HOUR
    new = [line(at, n % 7000, "click" if n % 3 else "impression", id=user(f"id-{n}")) for n in range(30_000)]
    rng = random.Random(0)
    mixed = [*new, *rng.choices(new, k=LINES_MAX - len(new))]
    rng.shuffle(mixed)
    clicks = sum(one["event"] == "click" for one in new)

    first = await send(cluster, ndjson(mixed))
    more = [
        *new[:20_000],
        *(line(at, n, id=user(f"more-{n}")) for n in range(5000)),
        *(line(at, 1) for _ in range(5000)),
    ]
    again = await send(cluster, ndjson(more), coding="gzip", api="1")

    assert (first.json["accepted"], first.json["repeated"], first.json["errors"]) == (LINES_MAX, LINES_MAX - 30_000, [])
    assert (again.json["accepted"], again.json["repeated"], again.json["errors"]) == (30_000, 20_000, [])
    await shown(cluster, at, tally(7000, clicks + 10_000, 30_000 - clicks))


async def test_a_request_may_have_events_of_many_slices(cluster: Cluster) -> None:
    """More than an envelope to a worker holds, all new, and in no order."""
    lines = [line(FIRST + (MANY + n % 300) * HOUR, n % 11) for n in range(6000)]
    random.Random(0).shuffle(lines)

    answer = await send(cluster, ndjson(lines))

    assert (answer.status, answer.json["accepted"], answer.json["errors"]) == (202, 6000, [])
    for at in range(300):
        here = FIRST + (MANY + at) * HOUR
        users = {one["user"] for one in lines if one["timestamp"] == here}
        assert await cluster.summary(here) == tally(len(users), 20, 0)


# --- workers that are away


async def test_what_is_only_on_the_spool_is_said_to_be(cluster: Cluster, hour: int) -> None:
    """With workers away, all is taken; repeats cannot be known yet; once they are back, the counts are exact."""
    lines = [line(hour + n % 3 * HOUR, n, id=user(f"id-{n}")) for n in range(400)]
    assert (await send(cluster, ndjson(lines[:3]))).headers["X-Durability"] == "worker"
    away = [cluster.worker["0"], cluster.worker["2"]]
    for worker in away:
        worker.kill()
    try:
        answer = await send(cluster, ndjson(lines))
    finally:
        await cluster.start(*away)

    assert (answer.status, answer.json["accepted"], answer.json["errors"]) == (202, 400, [])
    assert (answer.headers["X-Durability"], answer.json["repeated"]) == ("spool", None)
    for at in range(3):
        mine = lines[at::3]
        await shown(cluster, hour + at * HOUR, tally(len(mine), len(mine), 0))
