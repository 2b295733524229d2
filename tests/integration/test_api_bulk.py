"""``POST /events``: many events at once; what is counted, what is refused, and how the answer tells."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from common.lines import LINES_MAX
from common.slices import SECOND, format_instant
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import CANARY, tally, user
from tests.support.nodes import Nodes, Silent

NDJSON = "application/x-ndjson"
DONE: dict[str, Any] = {"repeated": 0, "rejected": 0, "errors": []}


def line(number: int, *, at: Any = FIRST, event: str = "click", **more: object) -> dict[str, Any]:
    return {"timestamp": at, "user": user(number), "event": event, **more}


def ndjson(*lines: dict[str, Any] | str) -> bytes:
    return b"".join((one if isinstance(one, str) else json.dumps(one)).encode() + b"\n" for one in lines)


async def bulk(
    nodes: Nodes, body: bytes, *, kind: str = NDJSON, coding: str | None = None, path: str = "/events"
) -> Answer:
    headers = {"Content-Type": kind} | ({"Content-Encoding": coding} if coding else {})
    return await nodes.ask("POST", f"{nodes.api['0'].node.base}{path}", body=body, headers=headers)


def errors(answer: Answer) -> list[tuple[int, str, str | None, bool]]:
    """What the answer tells of each event that was not taken; no detail quotes one."""
    assert CANARY not in answer.text
    return [(one["index"], one["type"].rpartition(":")[2], one["field"], one["retry"]) for one in answer.json["errors"]]


@pytest.mark.parametrize("path", ["/events", "/events/"])
async def test_lines_are_counted_over_slices_and_workers(tmp_path: Path, path: str) -> None:
    """As if each had been posted by itself: users once per slice, each type by its name."""
    lines = [line(n % 50, at=FIRST + n % 3 * HOUR, event="click" if n % 5 else "impression") for n in range(600)]
    async with Nodes(tmp_path, workers=4) as nodes:
        answer = await bulk(nodes, ndjson(*lines), path=path)

        assert (answer.status, answer.json) == (202, {"accepted": 600, **DONE})
        assert answer.headers["X-Durability"] == "worker"
        for at in range(3):
            mine = [one for one in lines if one["timestamp"] == FIRST + at * HOUR]
            clicks = sum(one["event"] == "click" for one in mine)
            assert await nodes.summary(at=FIRST + at * HOUR) == tally(
                len({one["user"] for one in mine}), clicks, len(mine) - clicks
            )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/jsonl", ndjson(line(1), line(2))),
        ("application/json", json.dumps([line(1), line(2)]).encode()),
        ("application/x-ndjson; charset=utf-8", b"\xef\xbb\xbf\n" + ndjson(line(1)) + b"\r\n\n" + ndjson(line(2))[:-1]),
    ],
)
async def test_forms_of_many_events(tmp_path: Path, kind: str, body: bytes) -> None:
    """Lines or an array; blank lines, a mark at the beginning, and a missing line end at the end do not matter."""
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, body, kind=kind)

        assert (answer.status, answer.json) == (202, {"accepted": 2, **DONE})
        assert await nodes.summary() == tally(2, 2, 0)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps(line(1)).encode()),
        ("application/x-www-form-urlencoded", f"timestamp={FIRST}&user={user(1)}&event=click&colour=1".encode()),
        ("application/x-www-form-urlencoded", f"ts={FIRST}&userId={user(1)}&event=click".encode()),
        (
            "multipart/form-data; boundary=b",
            "".join(
                f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                for name, value in (("dt", FIRST), ("userid", user(1)), ("event", "click"))
            ).encode()
            + b"--b--\r\n",
        ),
    ],
)
async def test_forms_of_one_event(tmp_path: Path, kind: str, body: bytes) -> None:
    """An object, a form, a form in parts."""
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, body, kind=kind)

        assert (answer.status, answer.json) == (202, {"accepted": 1, **DONE})
        assert await nodes.summary() == tally(1, 1, 0)


async def test_a_compressed_body_is_counted(tmp_path: Path) -> None:
    """And its repeat counts again, where no id tells."""
    body = gzip.compress(ndjson(line(1), line(2)))
    async with Nodes(tmp_path) as nodes:
        first = await bulk(nodes, body, coding="gzip")
        second = await bulk(nodes, body, coding="gzip")

        assert (first.status, second.status) == (202, 202)
        assert await nodes.summary() == tally(2, 4, 0)


async def test_a_bad_line_does_not_spoil_its_neighbours(tmp_path: Path) -> None:
    """Each is told by its index and field, and not by what is in it."""
    bad: list[tuple[Any, str | None]] = [
        ("{", None),
        ("[1]", None),
        (line(1, event="purchase"), "event"),
        (line(1) | {"event": 7}, "event"),
        ({"timestamp": FIRST, "user": user(1)}, "event"),
        ({"timestamp": FIRST, "event": "click"}, "user"),
        ({"user": user(1), "event": "click"}, "timestamp"),
        (line(1, at=True), "timestamp"),
        (line(1, at="tomorrow"), "timestamp"),
        (line(1, at=10**14), "timestamp"),
        (line(1, ts=FIRST), "timestamp"),
        (line(1, userId="x"), "user"),
        (line(1, id="a", messageId="a"), "id"),
        (line(1, id=""), "id"),
        (line(1, id="x" * 257), "id"),
        (line(1) | {"user": ""}, "user"),
        (line(1) | {"user": "ü" * 129}, "user"),
        (line(1) | {"user": 7}, "user"),
        (f'{{"timestamp": {FIRST}, "user": "\\ud800", "event": "click"}}', "user"),
    ]
    lines = [each for number, (one, _) in enumerate(bad) for each in (line(number), one)]
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, ndjson(*lines, line(100)))

        assert (answer.status, answer.json["accepted"], answer.json["rejected"]) == (202, len(bad) + 1, len(bad))
        assert errors(answer) == [(2 * number + 1, "malformed", field, False) for number, (_, field) in enumerate(bad)]
        assert await nodes.summary() == tally(len(bad) + 1, len(bad) + 1, 0)


async def test_elements_of_an_array_are_told_apart_too(tmp_path: Path) -> None:
    """An array is as patient as lines are, as long as it is JSON."""
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, json.dumps([line(1), 7, line(2)]).encode(), kind="application/json")

        assert (answer.status, errors(answer)) == (202, [(1, "malformed", None, False)])
        assert await nodes.summary() == tally(2, 2, 0)


@pytest.mark.parametrize(
    ("kind", "body", "status", "problem"),
    [
        (NDJSON, b"", 400, "malformed"),
        (NDJSON, b"\n \n", 400, "malformed"),
        (NDJSON, b"{}\n{}\n", 400, "malformed"),
        (NDJSON, b"\xff\xfe\n", 400, "malformed"),
        (NDJSON, ndjson(line(1, at=FIRST + 10 * 365 * 86400)), 422, "outside-window"),
        (NDJSON, ndjson(line(1, at=FIRST + 10 * 365 * 86400), "{"), 400, "malformed"),
        (NDJSON, b"\n" * (LINES_MAX + 1) + b"1", 413, "too-large"),
        ("application/json", b"[" + b"1," * LINES_MAX + b"1]", 413, "too-large"),
        ("application/json", b"[1", 400, "malformed"),
        ("application/json", b"[]", 400, "malformed"),
        ("application/x-www-form-urlencoded", json.dumps(line(1)).encode(), 415, "media-type"),
        ("application/x-www-form-urlencoded", b"user=\xff", 400, "malformed"),
        (
            "application/x-www-form-urlencoded",
            f"timestamp={FIRST}&user=a&user=a&event=click".encode(),
            400,
            "malformed",
        ),
        ("text/plain", ndjson(line(1)), 415, "media-type"),
    ],
)
async def test_nothing_taken_is_a_problem(tmp_path: Path, kind: str, body: bytes, status: int, problem: str) -> None:
    """400 where all lines are malformed; the same list of errors inside, where there is one."""
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, body, kind=kind)

        assert (answer.status, answer.problem) == (status, problem)
        assert CANARY not in answer.text
        assert (await nodes.json())["events"] == {}


async def test_timestamps_come_as_numbers_and_text(tmp_path: Path) -> None:
    """Seconds, fractions of them to the last digit, milliseconds, RFC 3339: of one slice up to its last instant."""
    last = FIRST + HOUR - 1
    times = [FIRST, str(FIRST), FIRST * 1000, FIRST + 0.5, f"{FIRST}.25", last * 1000 + 999]
    times.append(format_instant(last * SECOND + 999_999))
    texts = [json.dumps(line(number, at=at)) for number, at in enumerate(times)]
    # The nearest double of this one is the beginning of the next slice.
    texts.append(json.dumps(line(99, at=1.5)).replace("1.5", f"{last}.99999999999"))
    async with Nodes(tmp_path) as nodes:
        answer = await bulk(nodes, ndjson(*texts, line(1000, at=FIRST + HOUR)))

        assert (answer.status, answer.json["errors"]) == (202, [])
        assert await nodes.summary() == tally(len(texts), len(texts), 0)
        assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)


async def test_repeats_are_told(tmp_path: Path) -> None:
    """By their ids: within a request, and from an earlier one; they are accepted, and counted once."""
    async with Nodes(tmp_path, workers=2) as nodes:
        first = await bulk(nodes, ndjson(*(line(n, id=f"i{n}") for n in range(20)), line(3, id="i3"), line(50)))
        again = await bulk(nodes, ndjson(*(line(n, messageId=f"i{n}") for n in range(20))))

        assert first.json == {"accepted": 22, **DONE, "repeated": 1}
        assert again.json == {"accepted": 20, **DONE, "repeated": 20}
        assert await nodes.summary() == tally(21, 21, 0)


async def test_what_may_be_counted_is_to_be_retried_where_an_id_tells(tmp_path: Path) -> None:
    """The worker takes the connection and says nothing: 503, and once it is back, the retry counts nothing twice."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click(user(0))
        await nodes.worker["1"].stop()
        async with Silent(nodes.worker["1"].node.port):
            unknown = await bulk(nodes, ndjson(line(1), line(2, id="x"), "{"))
        await nodes.start_worker("1")
        again = await bulk(nodes, ndjson(line(2, id="x")))

        assert (unknown.status, unknown.problem, unknown.json["accepted"]) == (503, "outcome-unknown", 0)
        assert errors(unknown) == [
            (0, "outcome-unknown", None, False),
            (1, "outcome-unknown", None, True),
            (2, "malformed", None, False),
        ]
        assert again.status == 202
        assert await nodes.summary() == tally(3, 3, 0)


async def test_what_was_not_taken_is_to_be_retried(tmp_path: Path) -> None:
    """Without the registry a known slice goes on; a new one is not taken, and nothing of it is counted."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await bulk(nodes, ndjson(line(1)))
        await nodes.worker["0"].stop()
        some = await bulk(nodes, ndjson(line(2), line(2, at=FIRST + HOUR), line(3)))
        none = await bulk(nodes, ndjson(line(2, at=FIRST + HOUR)))
        await nodes.start_worker("0")

        assert (some.status, some.json["accepted"]) == (202, 2)
        assert errors(some) == [(1, "not-taken", None, True)]
        assert (none.status, none.problem, none.headers["Retry-After"]) == (503, "not-taken", "1")
        assert errors(none) == [(0, "not-taken", None, True)]
        assert await nodes.summary() == tally(3, 3, 0)


async def test_a_request_of_several_pieces_is_one_request(tmp_path: Path) -> None:
    """Indexes count through, and all of it is on disk before the answer."""
    lines: list[dict[str, Any] | str] = [line(n, colour="x" * 200) for n in range(3000)]
    lines[2500] = "{"
    async with Nodes(tmp_path, workers=2) as nodes:
        answer = await bulk(nodes, ndjson(*lines))

        assert (answer.status, errors(answer)) == (202, [(2500, "malformed", None, False)])
        assert await nodes.summary() == tally(2999, 2999, 0)


async def test_many_requests_at_once_are_counted_exactly(tmp_path: Path) -> None:
    """More than one batch holds, from many clients."""
    async with Nodes(tmp_path, workers=2) as nodes:
        answers = await asyncio.gather(
            *(bulk(nodes, ndjson(*(line(n) for n in range(part * 500, part * 500 + 1000)))) for part in range(40))
        )

        assert {answer.status for answer in answers} == {202}
        assert await nodes.summary() == tally(20_500, 40_000, 0)
