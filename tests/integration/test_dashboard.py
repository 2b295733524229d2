"""The dashboard without a browser: the files of the page, and the figures that it is told."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboard.feed import VIEWERS_MAX
from dashboard.snapshot import Snapshot
from tests.support.cluster import FIRST, HOUR
from tests.support.events import CANARY
from tests.support.live import LiveStream, Stage
from tests.support.nodes import PATIENT, Nodes, until
from tests.support.pages import ROOT
from tests.support.snapshots import snapshot

STATIC = ROOT / "dashboard/static"
FILES = sorted(path.name for path in STATIC.rglob("*") if path.suffix in {".css", ".html", ".js", ".svg"})


async def seen(live: LiveStream, check: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first snapshot that is as wanted."""
    async with asyncio.timeout(40):
        while not check(found := await live.snapshot()):
            pass
    return found


@pytest.mark.parametrize("vendor", [STATIC / "vendor", ROOT / "tests/vendor/axe-core"], ids=lambda path: str(path.name))
def test_what_is_vendored_is_what_it_says(vendor: Path) -> None:
    """Each file of others has its checksum beside it, with their licence and version."""
    lines = [line.split() for line in (vendor / "SHA256SUMS").read_text().splitlines()]
    sums = {name: checksum for checksum, name in lines}

    assert sums == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in vendor.iterdir()
        if path.name not in {"SHA256SUMS", "VERSION"}
    }
    assert "LICENSE" in sums
    assert re.search(r"\d+\.\d+\.\d+", (vendor / "VERSION").read_text())


def test_the_page_is_complete_in_itself() -> None:
    """Nothing is written into it that the policy forbids, and it names no other origin."""
    ours = {path: path.read_text() for path in STATIC.iterdir() if path.is_file()}

    for path, text in ours.items():
        assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {"http://www.w3.org/2000/svg"}, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path
    page = ours[STATIC / "index.html"]
    assert not re.search(r"<style|<script>|\sstyle=|\son\w+=", page)
    assert set(re.findall(r'(?:href|src)="dashboard/([^"]+)"', page)) <= set(FILES)


async def test_the_files_of_the_page(tmp_path: Path) -> None:
    """Each has its type, a policy that lets it load nothing from elsewhere, and a tag by which it is not sent twice."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes:
        base = nodes.api["0"].node.base
        answers = {name: await nodes.ask("GET", f"{base}/dashboard/{name}") for name in FILES}
        page = await nodes.ask("GET", f"{base}/")
        again = await nodes.ask("GET", f"{base}/", headers={"If-None-Match": page.headers["ETag"]})
        head = await nodes.ask("HEAD", f"{base}/")
        missing = [await nodes.ask("GET", f"{base}/dashboard/{name}") for name in ("secret.key", "..%2Ffeed.py", "")]

    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(FILES, 200)
    for name, answer in answers.items():
        assert answer.body == next(STATIC.rglob(name)).read_bytes()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert page.body == answers["index.html"].body
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answers["live.js"].headers["Content-Type"].startswith("text/javascript")
    assert (again.status, again.body) == (304, b"")
    assert (head.status, head.body) == (200, b"")
    assert [answer.problem for answer in missing] == ["not-found"] * 3


async def test_the_files_are_packed_for_those_who_unpack(tmp_path: Path) -> None:
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes:
        base = nodes.api["0"].node.base
        url = f"{base}/dashboard/uPlot.iife.min.js"
        nodes.session._auto_decompress = False  # noqa: SLF001 - as it came, and aiohttp has no setting per request
        packed = await nodes.ask("GET", url, headers={"Accept-Encoding": "gzip"})
        plain = await nodes.ask("GET", url, headers={"Accept-Encoding": "identity"})

    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 2
    assert packed.headers["ETag"] == plain.headers["ETag"]


async def test_the_figures_move(tmp_path: Path) -> None:
    """An event is in the next snapshot: in the slice, in the chart, at its worker, and in the rates."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=2, event_types="any") as nodes:
        async with LiveStream(nodes.api["0"].node.base) as live:
            empty = await live.snapshot()
            for n in range(6):
                assert (await nodes.click(f"{CANARY}-{n}")).status == 202
            await nodes.post(f"timestamp={FIRST}&user={CANARY}-1&event=impression")
            await nodes.post(f"timestamp={FIRST}&user={CANARY}-1&event=search")
            await nodes.click(f"{CANARY}-late", at=FIRST - HOUR)
            told = await seen(live, lambda it: it["current"]["others"] == 1)
            headers = live.answer.headers
        metrics = (await nodes.ask("GET", f"{nodes.api['0'].node.base}/metrics")).text

    now = told["current"]
    assert empty["current"] | {"slice": 0, "users": 0, "clicks": 0, "complete": True} == empty["current"]
    assert (now["users"], now["clicks"], now["impressions"], now["others"]) == (6, 6, 1, 1)
    assert now["types"] == [["search", 1]]
    assert told["past"]["slices"][-2:] == [-1, 0]
    assert told["past"]["users"][-2:] == [1, 6]
    assert told["past"]["complete"][-1]
    assert sum(worker["users"] for worker in told["workers"]) == 6
    assert sum(worker["events"] for worker in told["workers"]) == 8
    assert told["events_per_second"] > 0
    assert told["node"]["events_per_second"] > 0
    assert [run["workers"] for run in told["cluster"]["settled"]] == [["0", "1"]]
    assert headers["Cache-Control"] == "no-store"
    assert CANARY not in str(told)
    # An answer that lasts as long as its viewer likes would drown the durations of all others.
    assert 'http_request_seconds_count{method="GET",route="/live"}' not in metrics


async def test_a_worker_that_is_away_takes_nothing_from_the_figures(tmp_path: Path) -> None:
    """It is shown as away, its part as it was told last, and the slice as what there is at least; then it is back."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=2) as nodes, LiveStream(nodes.api["0"].node.base) as live:
        for n in range(8):
            assert (await nodes.click(f"{CANARY}-{n}")).status == 202
        whole = await seen(live, lambda it: it["current"]["users"] == 8)
        await nodes.worker["1"].stop()
        away = await seen(live, lambda it: it["workers"][1]["state"] == "away" and not it["current"]["complete"])
        await nodes.start_worker("1")
        back = await seen(live, lambda it: it["current"]["complete"])

    assert whole["current"]["complete"]
    assert (away["current"]["users"], away["current"]["silent"]) == (8, ["1"])
    assert not away["past"]["complete"][-1]
    assert away["workers"][1]["users"] == whole["workers"][1]["users"]
    assert away["workers"][1]["detail"]
    assert (back["current"]["users"], back["workers"][1]["state"]) == (8, "ok")


async def test_a_refused_change_is_shown_also_when_it_is_mended(tmp_path: Path) -> None:
    """When, why, and whether it still stands."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes, LiveStream(nodes.api["0"].node.base) as live:
        before = await live.snapshot()
        nodes.write(length_of_time_slice=60)
        refused = await seen(live, lambda it: it["cluster"]["refused"] is not None)
        nodes.write(length_of_time_slice=HOUR)
        mended = await seen(live, lambda it: not it["cluster"]["refused"]["stands"])

    assert before["cluster"]["refused"] is None
    assert refused["cluster"]["refused"]["stands"]
    assert "length-of-time-slice" in refused["cluster"]["refused"]["reasons"][0]
    assert mended["cluster"]["refused"]["reasons"] == refused["cluster"]["refused"]["reasons"]
    assert mended["cluster"]["version"] == before["cluster"]["version"]


async def test_before_the_first_contact_there_is_something_to_say(tmp_path: Path) -> None:
    """No figures, but what the node waits for."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=2, start=False) as nodes:
        await nodes.start_api("0", ready=False)
        async with LiveStream(nodes.api["0"].node.base) as live:
            alone = await live.snapshot()
            for name in nodes.worker:
                await nodes.start_worker(name)
            met = await seen(live, lambda it: it["current"] is not None)

    assert alone["current"] is None
    assert alone["cluster"]["id"] is None
    assert alone["node"]["problems"]
    assert met["cluster"]["id"]


async def test_the_stream_ends_with_the_node(tmp_path: Path) -> None:
    """At once, and each viewer is told when to ask again."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes, LiveStream(nodes.api["0"].node.base) as live:
        await live.snapshot()
        async with asyncio.timeout(3):  # with a viewer who does not leave it would take 6
            await nodes.api["0"].stop()
        while await live.event() is not None:
            pass

        assert live.fields["event"] == "leave"
        assert int(live.fields["retry"]) > 0


LARGE = snapshot(problems=["x" * 1000] * 64)


async def large() -> Snapshot:
    return LARGE


async def test_the_stream_ends_where_a_node_begins_to_leave() -> None:
    """A process that is replaced waits until its connections have ended: viewers need not be waited for."""
    async with Stage(large) as stage, LiveStream(stage.base) as live:
        await live.snapshot()
        stage.runner.leave()
        while await live.event() is not None:
            pass
        async with LiveStream(stage.base) as late:
            status, retry = late.answer.status, late.answer.headers["Retry-After"]

        assert live.fields["event"] == "leave"
        assert (status, retry) == (503, "1")


async def test_a_viewer_who_does_not_read_is_dropped() -> None:
    """However large the buffers of its own kernel are: ours are small on purpose. Its connection is cut."""
    async with Stage(large, tick_seconds=0.01, slow_seconds=0.2) as stage:
        feed = stage.feed
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port, limit=1024)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: feed.dropped == 1, seconds=30)

        left = await reader.read()
        writer.close()

        assert feed.viewers == 0
        assert left
        assert not left.endswith(b"0\r\n\r\n")  # cut off, not ended


async def test_viewers_are_counted_and_bounded(tmp_path: Path) -> None:
    """Beyond the bound there is a problem; the number is a metric."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes:
        parts = nodes.api["0"].parts
        assert parts is not None
        async with LiveStream(nodes.api["0"].node.base) as live:
            told = await live.snapshot()
            metric = await nodes.metric("tallyslice_live_viewers")
            parts.feed.viewers += VIEWERS_MAX
            full = await nodes.ask("GET", f"{nodes.api['0'].node.base}/live")
            parts.feed.viewers -= VIEWERS_MAX

    assert (told["node"]["viewers"], metric) == (1, 1)
    assert full.problem == "unavailable"


@pytest.mark.parametrize("leave", ["close", "half"])
async def test_a_viewer_who_goes_is_gone(tmp_path: Path, leave: str) -> None:
    """Whether it ends its connection, or only says that it sends no more; and nothing is made for nobody."""
    async with Nodes(tmp_path, deadlines=PATIENT, workers=1) as nodes:
        parts = nodes.api["0"].parts
        assert parts is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", nodes.api["0"].node.port)
        writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"data: ")
        if leave == "half":
            writer.write_eof()
            await reader.readuntil(b"data: ")
        writer.close()
        await until(lambda: parts.feed.viewers == 0)
        await until(lambda: not parts.feed.ticks)
