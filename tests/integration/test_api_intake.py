"""The way in: what is taken, what is refused and how, and when it is not known."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from common.anonymise import Anonymiser
from common.config import load_config, load_secret
from common.errors import Malformed
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import MEDIA_TYPE, NAMES_MAX, Envelope, Outcome, Reply, decode, encode
from tests.support.batches import a_batch
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import CANARY, tally, user
from tests.support.forms import TYPE, form_of
from tests.support.nodes import Delayed, Nodes, Silent, until
from tests.support.patience import eventually
from tests.support.proxy import Proxy

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
PARTS = {"Content-Type": TYPE}
EVENT = f"timestamp={FIRST}&user={user(1)}&click"
AS_JSON = f'{{"timestamp": {FIRST}, "user": "{user(1)}", "event": "click"}}'


def is_refused(answer: Answer, status: int, problem: str, field: str | None = None) -> bool:
    return (answer.status, answer.problem, answer.json.get("field")) == (status, problem, field)


# --- forms of an event


@pytest.mark.parametrize(
    ("query", "body", "headers", "status"),
    [
        (EVENT, None, {}, 202),
        (f"{EVENT}=false", None, {}, 202),
        (f"timestamp={FIRST}&user={user(1)}&event=click", None, {}, 204),
        ("", EVENT, FORM, 202),
        ("", f"timestamp={FIRST}&user={user(1)}&event=click", FORM, 202),
        (f"timestamp={FIRST}", f"user={user(1)}&click", FORM, 202),
        ("", AS_JSON, JSON, 202),
        ("event=click", f'{{"timestamp": "{FIRST}", "user": "{user(1)}", "colour": [1]}}', JSON, 202),
        (EVENT, "", FORM, 202),
        ("", form_of([("timestamp", f"{FIRST}"), ("user", user(1)), ("event", "click")]), PARTS, 202),
        ("event=click", form_of([("timestamp", f"{FIRST}"), ("user", user(1)), ("colour", "a\r\nb")]), PARTS, 202),
        (EVENT, form_of([]), PARTS, 202),
    ],
)
async def test_an_event_comes_as_query_form_or_json(
    tmp_path: Path, query: str, body: str | bytes | None, headers: dict[str, str], status: int
) -> None:
    """202, or 204 for the older form; empty, and on a worker's disk."""
    async with Nodes(tmp_path) as nodes:
        answer = await nodes.post(query, body=body, headers=headers)
        slashed = await nodes.ask("POST", f"{nodes.api['0'].url}/?{query}", body=body, headers=headers)

        assert (answer.status, answer.text, answer.headers["X-Durability"]) == (status, "", "worker")
        assert slashed.status == status
        assert await nodes.summary() == tally(1, 2, 0)


@pytest.mark.parametrize(
    ("query", "body", "headers", "refusal"),
    [
        (f"user={user(1)}&click", None, {}, (400, "malformed", "timestamp")),
        ("", AS_JSON, FORM, (415, "media-type", None)),
        (f"timestamp={FIRST}&click", None, {}, (400, "malformed", "user")),
        (f"timestamp={FIRST}&user={user(1)}", None, {}, (400, "malformed", "event")),
        (f"{EVENT}&impression", None, {}, (400, "malformed", "impression")),
        (f"{EVENT}&user={user(2)}", None, {}, (400, "malformed", "user")),
        (EVENT, f"user={user(2)}", FORM, (400, "malformed", "user")),
        (f"timestamp={FIRST}&user=%ff{CANARY}&click", None, {}, (400, "malformed", None)),
        ("", f"user=%ff{CANARY}", FORM, (400, "malformed", None)),
        ("", f"{CANARY}\udcff".encode(errors="surrogateescape"), FORM, (400, "malformed", None)),
        ("", f'{{"user": "{CANARY}"', JSON, (400, "malformed", None)),
        ("", form_of([("user", CANARY), ("user", CANARY)]), PARTS, (400, "malformed", "user")),
        ("", form_of([("user", CANARY)])[:-5], PARTS, (400, "malformed", None)),
        ("", form_of([("user", CANARY)]), {"Content-Type": "multipart/form-data"}, (400, "malformed", None)),
        ("", AS_JSON, {"Content-Type": "text/plain"}, (415, "media-type", None)),
        ("", b"x" * (64 * 1024 + 1), FORM, (413, "too-large", None)),
        (f"timestamp={FIRST + 10 * HOUR}&user={user(1)}&click", None, {}, (422, "outside-window", "timestamp")),
    ],
)
async def test_what_is_no_event_is_refused(
    tmp_path: Path,
    query: str,
    body: str | bytes | None,
    headers: dict[str, str],
    refusal: tuple[int, str, str | None],
) -> None:
    """With the problem's type and the field, and without a word of what was sent; and nothing is counted."""
    async with Nodes(tmp_path, max_future_seconds=HOUR) as nodes:
        answer = await nodes.post(query, body=body, headers=headers)

        assert is_refused(answer, *refusal), answer
        assert CANARY not in answer.text
        assert await nodes.summary() == tally(0, 0, 0)
        rejected = f'outcome="rejected",reason="{refusal[1]}"'
        assert await nodes.metric(f"tallyslice_events_total{{{rejected}}}") in (0, 1)


async def test_a_name_does_not_end_at_a_hash(tmp_path: Path) -> None:
    """Behind a # that was not escaped nothing can be read, so a#1 and a#2 would be one user: neither is taken."""
    async with Nodes(tmp_path, workers=1) as nodes:
        for name in (f"{CANARY}#1", f"{CANARY}#"):
            reader, writer = await asyncio.open_connection("127.0.0.1", nodes.api["0"].node.port)
            query = f"timestamp={FIRST}&click&user={name}"
            writer.write(f"POST /analytics?{query} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert b" 400 " in answer
            assert b"%23" in answer
            assert CANARY.encode() not in answer
        assert (await nodes.click(f"{CANARY}%231")).status == 202
        assert await nodes.summary() == tally(1, 1, 0)


async def test_a_body_in_chunks_is_held_to_the_same_bound(tmp_path: Path) -> None:
    async with Nodes(tmp_path) as nodes, aiohttp.ClientSession() as session:

        async def chunks() -> object:
            for _ in range(65):
                yield b"x" * 1024
            yield b"x"

        async with session.post(nodes.api["0"].url, data=chunks(), headers=FORM) as response:
            assert response.status == 413


# --- windows and ends


@pytest.mark.parametrize(
    ("offset", "status"),
    [("60", 202), ("60.000001", 422), ("-30", 202), ("-30.000001", 422), ("0", 202)],
)
async def test_the_window_includes_its_edges(tmp_path: Path, offset: str, status: int) -> None:
    """``max-future-seconds`` and ``max-past-seconds``, to the microsecond."""
    async with Nodes(tmp_path, max_future_seconds=60, max_past_seconds=30) as nodes:
        whole, _, fraction = offset.partition(".")
        at = int(nodes.now.seconds) * 1_000_000 + int(whole) * 1_000_000
        at += int(fraction or 0) * (-1 if offset.startswith("-") else 1)
        answer = await nodes.post(f"timestamp={at // 1_000_000}.{at % 1_000_000:06}&user={user(1)}&click")

        assert answer.status == status
        assert status == 202 or is_refused(answer, 422, "outside-window", "timestamp")


async def test_a_slice_takes_events_until_it_closes(tmp_path: Path) -> None:
    """From its end + ``close-after-seconds`` on: 422; a moment before, it is taken."""
    async with Nodes(tmp_path, close_after_seconds=30) as nodes:
        nodes.now.seconds = FIRST + HOUR + 29.999999
        before = await nodes.click()
        nodes.now.seconds = FIRST + HOUR + 30
        after = await nodes.click()

        assert before.status == 202
        assert is_refused(after, 422, "slice-closed", "timestamp"), after
        assert await nodes.summary() == tally(1, 1, 0)


async def test_a_slice_that_its_worker_has_closed_takes_nothing(tmp_path: Path) -> None:
    """This node's own file does not close slices: the worker says so, at once and from then on."""
    async with Nodes(tmp_path, start=False, close_after_seconds=30, close_grace_seconds=0) as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        await nodes.start_api("0", file=nodes.write(name="open.json", close_after_seconds=None))
        await nodes.click()
        nodes.now.seconds = FIRST + 2 * HOUR
        for worker in nodes.worker.values():
            assert worker.closing is not None
            await worker.closing.close_due()

        answers = [await nodes.click() for _ in range(2)]
        assert all(is_refused(answer, 422, "slice-closed", "timestamp") for answer in answers), answers
        assert await nodes.summary() == tally(1, 1, 0)


async def test_too_many_slices_are_refused_but_not_the_current_one(tmp_path: Path) -> None:
    """A client's wrong clock must not fill the cluster with slices, nor stop what happens now."""
    async with Nodes(tmp_path, max_slices=1) as nodes:
        assert (await nodes.click(at=nodes.now.seconds)).status == 202
        assert (await nodes.click(at=nodes.now.seconds + HOUR)).status == 202
        refused = await nodes.click(at=FIRST - HOUR)

        assert is_refused(refused, 422, "too-many-slices", "timestamp"), refused
        assert await nodes.summary(at=FIRST - HOUR) == tally(0, 0, 0)


async def test_invented_types_are_bound_in_each_slice(tmp_path: Path) -> None:
    """With "any": 256 of them; those that are known go on, and another slice has its own."""
    async with Nodes(tmp_path, event_types="any") as nodes:

        async def post(name: str, at: float = FIRST) -> Answer:
            return await nodes.post(f"timestamp={at}&user={user(1)}&event={quote(name)}")

        answers = [await post(f"type-{number}") for number in range(NAMES_MAX)]
        one_more = await post("one-more")

        assert {answer.status for answer in answers} == {204}
        assert is_refused(one_more, Malformed.status, "malformed", "event"), one_more
        assert (await post("type-0")).status == 204
        assert (await post("one-more", FIRST + HOUR)).status == 204
        found = await nodes.json()
        assert len(found["events"]) == NAMES_MAX
        assert found["events"]["type-0"] == 2


# --- not taken, and not known


async def test_a_node_that_is_about_to_stop_takes_nothing(tmp_path: Path) -> None:
    async with Nodes(tmp_path) as nodes:
        parts = nodes.api["0"].parts
        assert parts is not None
        await parts.app.shutdown()

        refused = await nodes.click()
        assert is_refused(refused, 503, "not-taken"), refused
        assert refused.headers["Retry-After"] == "1"
        assert await nodes.summary() == tally(0, 0, 0)


async def test_without_a_receipt_in_time_the_outcome_is_unknown(tmp_path: Path) -> None:
    """The worker takes the connection and says nothing; once it is back, the event is counted after all, once."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        await nodes.worker["1"].stop()
        async with Silent(nodes.worker["1"].node.port):
            unknown = await nodes.click(user(2), more="&id=x")
        await nodes.start_worker("1")
        again = await nodes.click(user(2), more="&id=x")

        assert is_refused(unknown, 503, "outcome-unknown"), unknown
        assert unknown.headers["Retry-After"] == "1"
        assert again.status == 202
        assert await nodes.summary() == tally(2, 2, 0)
        assert await nodes.metric('tallyslice_events_total{outcome="unknown",reason="outcome-unknown"}') == 1


async def test_what_arrives_while_an_envelope_is_under_way_is_one_batch(tmp_path: Path) -> None:
    """Natural batching: no timer, and all events of a batch are answered together."""
    async with Nodes(tmp_path, workers=1) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes={"0": proxy.url}))
        delayed = Delayed()
        proxy.plan.append(delayed)
        first = asyncio.create_task(nodes.click())
        await until(lambda: len(proxy.exchanges) == 1)
        others = [asyncio.create_task(nodes.click(user(number))) for number in range(20)]
        await eventually(lambda: queued(nodes, 21))
        delayed.release()

        assert {(await task).status for task in (first, *others)} == {202}
        assert [len(exchange.batches) for exchange in proxy.exchanges] == [1, 1]
        assert len(proxy.exchanges[1].batches[0].kinds) == 20


async def queued(nodes: Nodes, events: int) -> None:
    assert (await nodes.link("0"))["queue_events"] == events


async def test_a_slice_that_its_worker_refuses_is_parked_alone(tmp_path: Path) -> None:
    """What was sent may yet be counted, what came after is not taken; other slices go on.

    ::

        the worker holds slice 0 under another route than the one that is settled: a disk from elsewhere, say
    """
    async with Nodes(tmp_path, routing={0: ["0", "1"]}) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await hold_under_another_route(nodes)
        urls = {**nodes.config["worker-nodes"], "0": proxy.url}
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes=urls))
        delayed = Delayed()
        proxy.plan.append(delayed)
        sent = asyncio.create_task(nodes.click(belongs_to_worker_0(nodes, 0)))
        await until(lambda: len(proxy.exchanges) == 1)
        waiting = asyncio.create_task(nodes.click(belongs_to_worker_0(nodes, 1)))
        await eventually(lambda: queued(nodes, 2))
        delayed.release()
        turned_away = await waiting
        refused = await nodes.click(belongs_to_worker_0(nodes, 2))
        other_slice = await nodes.click(at=FIRST + HOUR)

        assert is_refused(turned_away, 503, "not-taken"), turned_away
        assert is_refused(refused, 503, "not-taken"), refused
        assert "slice 0 is parked, its worker answers wrong_route" in refused.text
        assert is_refused(await sent, 503, "outcome-unknown")
        assert other_slice.status == 202
        parked = (await nodes.link("0"))["parked"]
        assert parked["0"]["outcome"] == Outcome.WRONG_ROUTE
        assert await nodes.metric('tallyslice_parked_slices{worker="0"}') == 1


def belongs_to_worker_0(nodes: Nodes, number: int) -> str:
    """A user of slice 0 whose key falls to the first worker of two."""
    keys = Anonymiser(secret=load_secret(load_config(nodes.file))).slice_keys(SliceId(0))
    names = (user(at) for at in range(1000))
    return [name for name in names if keys.user_key(name.encode())[0] < 128][number]


async def hold_under_another_route(nodes: Nodes) -> None:
    """Let worker 0 hold slice 0 for itself alone."""

    async def has_joined() -> None:
        assert (await nodes.link("0"))["state"] == "ok"

    await eventually(has_joined)
    pins = (await nodes.state())["pins"]
    batch = a_batch(("u", "click"), route=(WorkerId("0"),))
    envelope = Envelope(
        cluster=pins["cluster"], worker=pins["workers"]["0"], stream=b"s" * 16, claims=0, batches=(encode(batch),)
    )
    async with nodes.session.post(
        f"{nodes.worker['0'].url}/batches", data=encode(envelope), headers={"Content-Type": MEDIA_TYPE}
    ) as response:
        assert [one.outcome for one in decode(await response.read(), Reply).receipts] == [Outcome.APPLIED]
