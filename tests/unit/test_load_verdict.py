"""The check at the end of a feed, and the board while it runs, against API nodes that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from common.errors import PeerAway
from common.slices import SECOND, Micros, SliceClock, SliceId
from tallyslice.load.board import Board
from tallyslice.load.generator import Generator
from tallyslice.load.order import Order
from tallyslice.load.reconcile import Counted
from tallyslice.load.verdict import Judgement, NodeVerdict, report
from tallyslice.questions import Questions
from tallyslice.target import origin

NOW = Micros(1_700_000_000 * SECOND)
CLOCK = SliceClock(first=NOW, length_seconds=60)
PINS = {
    "cluster": "c", "first": NOW, "length_seconds": 60, "secret_id": "s", "registry": "0", "workers": {"0": "u"},
}  # fmt: skip


def slices(*, users: int = 1, clicks: int = 1, complete: bool = True) -> dict[str, Any]:
    """An answer with one slice."""
    return {"slices": [{"slice": 0, "unique_users": users, "events": {"click": clicks}, "complete": complete}]}


@dataclass(eq=False)
class FakeApi:
    """Answers each question about all slices with the next answer of a list, the last one for ever; None: 503."""

    answers: list[dict[str, Any] | None] = field(default_factory=list)
    routes: list[dict[str, Any]] = field(default_factory=list)
    pins: dict[str, Any] | None = field(default_factory=lambda: PINS)
    asked: int = 0

    async def all_slices(self, _: web.Request) -> web.Response:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return web.Response(status=503) if answer is None else web.json_response(answer)

    async def cluster(self, _: web.Request) -> web.Response:
        return web.json_response({"pins": self.pins, "settled": self.routes})

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(status=503, text="draining\nno pins\n") if self.pins is None else web.Response()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def node(api: FakeApi) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/analytics/allslices", api.all_slices)
    app.router.add_get("/cluster", api.cluster)
    app.router.add_get("/readyz", api.ready)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def questions(session: aiohttp.ClientSession) -> Questions:
    return Questions(session=session)


@pytest.fixture
def generator(node: str) -> Generator:
    """One that has sent a click of one user in slice 0."""
    generator = Generator(Order(nodes=(node,), reads=0.5), tag="t", clock=CLOCK, now=lambda: NOW)
    generator.traffic.model.acknowledged[SliceId(0)].add(1, "click")
    generator.traffic.drawn = generator.traffic.acknowledged = 1
    return generator


@pytest.fixture
def judge(questions: Questions, generator: Generator, node: str) -> Callable[[], Any]:
    """Asks for the verdict, on a clock that goes on by 10 s whenever it is looked at."""
    ticks = count(0, 10)

    async def verdict() -> NodeVerdict:
        judgement = Judgement(
            questions=questions, model=generator.traffic.model, before={}, timer=lambda: float(next(ticks))
        )
        (one,) = await judgement.of([node], cache_ttl_seconds=0)
        return one

    return verdict


def said(generator: Generator, *verdicts: NodeVerdict) -> tuple[bool, str]:
    console = Console(file=StringIO(), width=120, color_system=None)
    with console.capture() as capture:
        held = report(generator.traffic, verdicts, console)
    return held, capture.get()


async def test_right_twice_is_exact(api: FakeApi, judge: Callable[[], Any], generator: Generator) -> None:
    """A node is asked at once, and again when its cache is old."""
    api.answers = [slices()]
    verdict = await judge()

    assert verdict.holds
    assert api.asked == 2
    assert said(generator, verdict) == (True, "1 events acknowledged, 1 counted, 1 users over 1 slices: exact\n")


async def test_wrong_the_second_time_is_wrong(api: FakeApi, judge: Callable[[], Any]) -> None:
    """What only a cache knew does not count."""
    api.answers = [slices(), {"slices": []}]
    verdict = await judge()

    assert [one.what for one in verdict.differences] == ["users", "click"]


async def test_a_wrong_number_is_shown(api: FakeApi, judge: Callable[[], Any], generator: Generator) -> None:
    api.answers = [slices(clicks=2)]
    held, text = said(generator, await judge())

    assert not held
    assert "click" in text
    assert text.endswith("1 events acknowledged, 2 counted, 1 users over 1 slices: NOT exact\n")


async def test_an_old_answer_is_forgiven_while_the_cache_may_be_old(
    api: FakeApi, questions: Questions, generator: Generator, node: str
) -> None:
    """The first answer is from before the last event; the second one is right."""
    api.answers = [{"slices": []}, slices()]
    judgement = Judgement(
        questions=questions, model=generator.traffic.model, before={}, timer=asyncio.get_running_loop().time
    )
    (verdict,) = await judgement.of([node], cache_ttl_seconds=0)

    assert verdict.holds


async def test_a_node_without_an_answer_is_not_taken_for_right(
    api: FakeApi, judge: Callable[[], Any], generator: Generator
) -> None:
    api.answers = [None]
    held, text = said(generator, await judge())

    assert not held
    assert "could not be checked" in text
    assert "503" in text


def test_what_was_not_acknowledged_is_told(generator: Generator, api: FakeApi) -> None:
    """Refused, never taken, and unknown are three different things; unknown ones are allowed for."""
    generator.traffic.refused["status 422"] = 3
    generator.traffic.undelivered = 2
    generator.traffic.model.unknown[SliceId(0)].add(5, "click")
    held, text = said(generator)

    assert held
    assert "3 events were refused (status 422)" in text
    assert "2 events were given up before any node took them" in text
    assert "1 events were never acknowledged but may be counted" in text
    assert text.endswith("exact, but for those of unknown outcome\n")


def test_slices_that_others_fed_are_named(generator: Generator) -> None:
    """They are no fault, but the numbers shown there are not ours."""
    good = NodeVerdict(
        node="http://n", counted=Counted(events=1, users=1, slices=1), others=(SliceId(-7), *map(SliceId, range(1, 13)))
    )
    held, text = said(generator, good)

    assert held
    assert "Somebody else fed slices -7, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more: not checked." in text


def test_nothing_acknowledged_is_not_exact(generator: Generator) -> None:
    """An empty check must not pass for a good one."""
    generator.traffic.acknowledged = 0

    assert said(generator) == (False, "No event was acknowledged: there is nothing to check.\n")


@dataclass
class Watch:
    """A stopwatch that the test winds on."""

    seconds: float = 0.0


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def board(questions: Questions, generator: Generator, node: str, watch: Watch) -> Board:
    return Board(
        generator=generator,
        questions=questions,
        nodes=[node],
        clock=CLOCK,
        before={},
        seconds=60,
        now=lambda: NOW,
        timer=lambda: watch.seconds,
    )


async def test_the_board_shows_what_a_node_counts(api: FakeApi, board: Board, node: str, watch: Watch) -> None:
    """Numbers, routes, and rates since the last answer."""
    api.answers = [slices(users=1, clicks=4)]
    api.routes = [{"slice": 0, "route": ["0", "2"], "number": 1}]
    watch.seconds = 2.0
    await board.ask(node)
    view = board.view()

    (row,) = view.rows
    assert (row.summary.counts, row.route, row.rate, row.current) == ({"click": 4}, ("0", "2"), 2, True)
    assert (view.rate, view.elapsed_seconds, view.problem) == (0.5, 2, None)


async def test_the_board_keeps_what_it_knew_when_a_node_is_away(
    api: FakeApi, board: Board, node: str, watch: Watch
) -> None:
    """Old numbers with a warning are better than none; a settled route stays known."""
    api.answers = [slices(), None, slices(clicks=2)]
    api.routes = [{"slice": 0, "route": ["0"], "number": 1}]
    watch.seconds = 1.0
    await board.ask(node)
    watch.seconds = 2.0
    await board.ask(node)
    away = board.view()
    api.routes = []
    await board.ask(node)
    back = board.view()

    assert away.problem is not None
    assert "not fresh" in away.problem
    assert away.rate == 0  # the generator's own counters are always fresh
    assert [row.summary.counts for row in away.rows] == [{"click": 1}]
    assert back.problem is None
    assert [(row.summary.counts, row.route) for row in back.rows] == [({"click": 2}, ("0",))]


async def test_a_node_tells_how_its_cluster_divides_time(api: FakeApi, questions: Questions, node: str) -> None:
    known = (await questions.cluster(node)).clock
    api.pins = None
    unknown = (await questions.cluster(node)).clock

    assert (known, unknown) == (CLOCK, None)


async def test_an_answer_that_is_not_of_an_api_node_is_none(api: FakeApi, questions: Questions, node: str) -> None:
    api.answers = [{"slices": "none"}]
    api.pins = {"first": "noon"}

    with pytest.raises(PeerAway, match="does not answer like a node of Tallyslice"):
        await questions.all_slices(node)
    with pytest.raises(PeerAway, match="does not answer like a node of Tallyslice"):
        await questions.cluster(node)


async def test_readiness_gives_its_reasons(api: FakeApi, questions: Questions, node: str) -> None:
    ready = await questions.unready(node)
    api.pins = None
    unready = await questions.unready(node)
    nowhere = await questions.unready("http://127.0.0.1:1")

    assert (ready, unready, nowhere) == (None, "draining; no pins", "it does not answer yet")


def test_the_origin_of_a_url_is_what_paths_are_appended_to() -> None:
    assert origin("http://localhost:8000/analytics") == "http://localhost:8000"
    assert origin("https://[::1]:8000") == "https://[::1]:8000"
    for wrong in ("ftp://localhost", "localhost:8000", "http://", "http://localhost:0/", "http://ada:pass@localhost"):
        with pytest.raises(ValueError, match="must be the URL of an API node"):
            origin(wrong)
