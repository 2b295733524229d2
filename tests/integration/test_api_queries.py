"""A question's way: who is asked, how often, how long, and what is said when somebody is missing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Self

import msgspec
import pytest
from aiohttp import web

from common.wire import MEDIA_TYPE, Answer, Question, decode, encode
from tests.support.cluster import FIRST, HOUR
from tests.support.events import tally, user
from tests.support.nodes import QUICK, Nodes, Silent
from tests.support.patience import eventually
from tests.support.ports import PORTS

MINUTE = 60


async def fill(nodes: Nodes, users: int = 20, *, at: float = FIRST) -> None:
    answers = await asyncio.gather(*(nodes.click(user(number), at=at) for number in range(users)))
    assert {answer.status for answer in answers} == {202}


async def asked(nodes: Nodes, source: str = "asked", *, api: str = "0") -> float:
    return await nodes.metric(f'tallyslice_summaries_total{{source="{source}"}}', api=api)


def no_answer(answer: object) -> bool:
    return (answer.status, answer.problem) == (503, "no-answer")  # type: ignore[attr-defined]


# --- one slice


async def test_an_empty_slice_is_zeros_that_cost_no_worker_a_question(tmp_path: Path) -> None:
    """A slice that is not settled holds nothing; per worker, the proposed route is shown."""
    async with Nodes(tmp_path, routing={0: ["1", "0"]}) as nodes:
        at = FIRST + 5 * HOUR

        assert await nodes.summary(at=at) == tally(0, 0, 0)
        found = (await nodes.get(f"/perworker?timestamp={at}&format=json")).json
        assert [(one["worker"], one["unique_users"], one["complete"]) for one in found["workers"]] == [
            ("1", 0, True),
            ("0", 0, True),
        ]
        assert await asked(nodes) == 0


async def test_an_acknowledged_event_is_in_the_next_answer(tmp_path: Path) -> None:
    """Through the node that took it at once, out of its cache; through others within the cache's time."""
    async with Nodes(tmp_path, apis=2, workers=1, cache_ttl_seconds=0.3) as nodes:
        for number in range(10):
            await nodes.click(user(number))
            assert await nodes.summary() == tally(number + 1, number + 1, 0)

        async def other_too() -> None:
            assert await nodes.summary(api="1") == tally(10, 10, 0)

        await eventually(other_too, seconds=2)


async def test_a_fresh_answer_costs_no_worker_a_question(tmp_path: Path) -> None:
    async with Nodes(tmp_path, apis=2, cache_ttl_seconds=30) as nodes:
        await fill(nodes)
        answers = [await nodes.summary(api="1") for _ in range(5)]

        assert answers == [tally(20, 20, 0)] * 5
        assert await asked(nodes, api="1") == 2
        assert await asked(nodes, "cache", api="1") == 8


async def test_the_workers_are_in_the_order_of_the_route(tmp_path: Path) -> None:
    """Text and JSON; each with its id and URL; together they are the slice."""
    async with Nodes(tmp_path, workers=3, routing={0: ["2", "0", "1"]}) as nodes:
        await fill(nodes, 30)
        found = (await nodes.get(f"/perworker?timestamp={FIRST}&format=json")).json["workers"]
        text = (await nodes.get(f"/perworker?timestamp={FIRST}")).text

        assert [one["worker"] for one in found] == ["2", "0", "1"]
        assert sum(one["unique_users"] for one in found) == 30
        assert all(one["unique_users"] for one in found)
        assert text == "".join(
            f"slice,0\nworker,{nodes.worker[one['worker']].url}\n"
            + tally(one["unique_users"], one["clicks"], one["impressions"])
            for one in found
        )


async def test_who_asks_the_same_shares_one_question(tmp_path: Path) -> None:
    """Many clients, one worker that says nothing: it is asked once, and all give up at their own deadline."""
    async with Nodes(tmp_path, workers=1) as nodes:
        await nodes.click()
        await nodes.worker["0"].stop()
        async with Silent(nodes.worker["0"].node.port):
            answers = await asyncio.gather(*(nodes.get(f"?timestamp={FIRST}") for _ in range(20)))
            assert await asked(nodes) == 1
            assert await asked(nodes, "shared") == 19

        assert all(map(no_answer, answers)), answers
        assert "worker 0 does not answer" in answers[0].text
        assert answers[0].headers["Retry-After"] == "1"


async def test_a_worker_that_restarts_is_waited_for(tmp_path: Path) -> None:
    """The question that met it away gets its number."""
    async with Nodes(tmp_path, deadlines=replace(QUICK, question_seconds=5.0)) as nodes:
        await fill(nodes)
        await nodes.worker["1"].stop()
        waiting = asyncio.create_task(nodes.summary())
        await eventually(lambda: was_asked(nodes, 3))
        assert not waiting.done()
        await nodes.start_worker("1")

        assert await waiting == tally(20, 20, 0)


async def was_asked(nodes: Nodes, times: int) -> None:
    assert await asked(nodes) >= times


@pytest.mark.parametrize("path", ["", "/perworker", "/allslices"])
async def test_a_missing_worker_is_no_number_unless_a_part_is_wanted(tmp_path: Path, path: str) -> None:
    """503 that names it; with ``partial=true`` the rest, and it says that it is not complete."""
    async with Nodes(tmp_path) as nodes:
        await fill(nodes)
        everything = (await nodes.get(f"/perworker?timestamp={FIRST}&format=json")).json["workers"]
        await nodes.worker["1"].stop()

        refused = await nodes.get(f"{path}?timestamp={FIRST}")
        text = await nodes.get(f"{path}?timestamp={FIRST}&partial=true")
        shown = await nodes.get(f"{path}?timestamp={FIRST}&partial=true&format=json")
        assert no_answer(refused), refused
        assert "worker 1 does not answer" in refused.text
        assert text.status == shown.status == 200
        assert text.headers["X-Complete"] == shown.headers["X-Complete"] == "false"
        one = {"": shown.json, "/perworker": (shown.json.get("workers") or [{}])[0]}.get(path)
        one = one or shown.json["slices"][0]
        assert one["unique_users"] == everything[0]["unique_users"]
        assert one["complete"] is (path == "/perworker")
        if path == "/perworker":
            assert shown.json["workers"][1] == {"worker": "1", "url": nodes.worker["1"].url, "complete": False}
            assert text.text.endswith(f"slice,0\nworker,{nodes.worker['1'].url}\n")


async def test_a_worker_that_the_file_does_not_list_is_missing_too(tmp_path: Path) -> None:
    """A file from before it came, at one node of two: 503, or with ``partial=true`` the sum of the rest."""
    nodes = Nodes(tmp_path, apis=2, start=False, deadlines=QUICK, routing={0: ["0"], 2: ["0", "1"]})
    async with nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        old = nodes.write(
            name="old.json", worker_nodes={"0": nodes.worker["0"].url}, routing=[{"slice": 0, "nodes": ["0"]}]
        )
        await nodes.start_api("0")
        await nodes.start_api("1", file=old)  # while no route names worker 1
        at = FIRST + 2 * HOUR
        await fill(nodes, at=at)
        here, _ = (await nodes.get(f"/perworker?timestamp={at}&format=json")).json["workers"]

        refused = await nodes.get(f"?timestamp={at}", api="1")
        shown = await nodes.get(f"?timestamp={at}&partial=true&format=json", api="1")
        parts = await nodes.get(f"/perworker?timestamp={at}&partial=true&format=json", api="1")
        text = await nodes.get(f"/perworker?timestamp={at}&partial=true", api="1")

        assert no_answer(refused), refused
        assert "does not list it" in refused.text
        assert (shown.status, shown.json["unique_users"]) == (200, here["unique_users"])
        assert shown.json["complete"] is False
        assert shown.headers["X-Complete"] == parts.headers["X-Complete"] == "false"
        assert parts.json["workers"] == [here, {"worker": "1", "url": None, "complete": False}]
        assert text.text.endswith("slice,2\nworker,1\n")


async def test_a_damaged_slice_is_no_number(tmp_path: Path) -> None:
    """Neither zeros nor what the others have; the slices beside it are as they were."""
    async with Nodes(tmp_path) as nodes:
        await fill(nodes)
        await fill(nodes, at=FIRST + HOUR)
        await nodes.worker["1"].stop()
        path = nodes.worker["1"].data / "slices" / "0.mdb"
        path.write_bytes(b"\xff" * path.stat().st_size)
        await nodes.start_worker("1")

        for question in (f"?timestamp={FIRST}", f"/allslices?timestamp={FIRST + HOUR}"):
            answer = await nodes.get(question)
            assert no_answer(answer), answer
            assert "worker 1 cannot read slice 0" in answer.text
        assert await nodes.summary(at=FIRST + HOUR) == tally(20, 20, 0)


# --- a worker that the file does not list


async def test_a_worker_that_this_nodes_file_does_not_list_is_missed(tmp_path: Path) -> None:
    """Another node's file has it, and settled a slice there: this node takes nothing of it, and leaves nothing out."""
    async with Nodes(tmp_path, apis=2, start=False, routing={0: ["0"], 2: ["1"], 3: ["0", "1"]}) as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        await nodes.start_api("0")
        old = nodes.write(
            name="old.json",
            worker_nodes={"0": nodes.worker["0"].url},
            routing=[{"slice": 0, "nodes": ["0"]}],
        )
        await nodes.start_api("1", file=old)
        await fill(nodes)
        everything = f"/allslices?timestamp={FIRST + 9 * HOUR}"
        assert (await nodes.get(everything, api="1")).text == f"slice,0\n{tally(20, 20, 0)}"
        await fill(nodes, at=FIRST + 2 * HOUR)
        await fill(nodes, at=FIRST + 3 * HOUR)

        async def has_heard() -> None:
            claims = [(await nodes.state(api=api))["claims"] for api in nodes.api]
            assert claims[0] == claims[1]

        await eventually(has_heard)
        for question in (f"?timestamp={FIRST + 2 * HOUR}", f"?timestamp={FIRST + 3 * HOUR}", everything):
            answer = await nodes.get(question, api="1")
            assert no_answer(answer), answer
            assert "this node's cluster file does not list it" in answer.text
        refused = await nodes.click(at=FIRST + 2 * HOUR, api="1")
        assert (refused.status, refused.problem) == (503, "not-taken")
        assert await nodes.summary(api="1") == tally(20, 20, 0)
        partial = await nodes.get(f"{everything}&partial=true&format=json", api="1")
        assert partial.headers["X-Complete"] == "false"
        assert [(one["slice"], one["complete"]) for one in partial.json["slices"]] == [(0, True), (3, False)]


async def test_a_worker_that_was_not_listed_is_missed_at_once(tmp_path: Path) -> None:
    """An event that another node has acknowledged there is not left out, though nobody has told this node of it yet."""
    seldom = replace(QUICK, watch_seconds=60)
    nodes = Nodes(tmp_path, apis=2, start=False, deadlines=seldom, routing={0: ["0"], 2: ["1"]})
    async with nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        await nodes.start_api("0")
        old = nodes.write(
            name="old.json", worker_nodes={"0": nodes.worker["0"].url}, routing=[{"slice": 0, "nodes": ["0"]}]
        )
        await nodes.start_api("1", file=old)
        await fill(nodes)
        everything = f"/allslices?timestamp={FIRST + 9 * HOUR}"
        assert (await nodes.get(everything, api="1")).text == f"slice,0\n{tally(20, 20, 0)}"
        await fill(nodes, at=FIRST + 2 * HOUR)

        answer = await nodes.get(everything, api="1")

        assert no_answer(answer), answer


async def test_all_slices_need_to_know_which_workers_hold_some(tmp_path: Path) -> None:
    """Routes were settled that this node has not seen, and the registry cannot tell it whose they are."""
    async with Nodes(tmp_path, apis=2, registry="1", routing={0: ["0"]}) as nodes:
        await fill(nodes)
        await nodes.get("/allslices", api="1")
        await fill(nodes, at=FIRST + HOUR)
        assert await nodes.summary(at=FIRST + HOUR, api="1") == tally(20, 20, 0)
        await nodes.worker["1"].stop()

        answer = await nodes.get("/allslices", api="1")
        partial = await nodes.get(f"/allslices?timestamp={FIRST + HOUR}&partial=true&format=json", api="1")
        assert no_answer(answer), answer
        assert "worker 1 does not answer" in answer.text
        assert partial.headers["X-Complete"] == "false"
        assert [one["slice"] for one in partial.json["slices"]] == [0, 1]


# --- all slices


async def test_all_slices_are_those_that_hold_data_oldest_first_up_to_a_time(tmp_path: Path) -> None:
    """Negative ones too; a slice that is settled and empty is not among them; T defaults to now."""
    async with Nodes(tmp_path, cache_ttl_seconds=30) as nodes:
        for at in (3, 0, -2, 1):
            await nodes.click(user(at), at=FIRST + at * HOUR)
        nodes.now.seconds = FIRST + HOUR

        async def slices(query: str) -> list[int]:
            return [one["slice"] for one in (await nodes.get(f"/allslices?format=json{query}")).json["slices"]]

        assert await slices("") == [-2, 0, 1]
        assert await slices(f"&timestamp={FIRST + 3 * HOUR}") == [-2, 0, 1, 3]
        assert await slices(f"&timestamp={FIRST + 3 * HOUR - 1}") == [-2, 0, 1]
        assert await slices(f"&timestamp={FIRST - 3 * HOUR}") == []
        assert (await nodes.get(f"/allslices?timestamp={FIRST}")).text == "".join(
            f"slice,{at}\n{tally(1, 1, 0)}" for at in (-2, 0)
        )


async def test_an_acknowledged_event_is_in_the_next_answer_about_all_slices(tmp_path: Path) -> None:
    """Though that is out of the cache: it is kept as new as the receipts."""
    async with Nodes(tmp_path, workers=1, cache_ttl_seconds=30) as nodes:
        for number in range(5):
            await nodes.click(user(number), at=FIRST + number * HOUR)
            answer = await nodes.get(f"/allslices?timestamp={FIRST + 9 * HOUR}&format=json")
            assert [one["slice"] for one in answer.json["slices"]] == list(range(number + 1))

        assert await asked(nodes) == 1
        assert await asked(nodes, "cache") == 4


class Pages:
    """An async context manager: a worker behind it answers questions about all slices two slices at a time."""

    def __init__(self, nodes: Nodes, worker: str) -> None:
        self.port = PORTS.take()
        self.questions: list[Question] = []
        self._nodes = nodes
        self._url = nodes.worker[worker].url
        self._runner = web.AppRunner(self._app())

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 23)
        app.router.add_route("*", "/worker/{rest:.*}", self._pass_on)
        return app

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        PORTS.give_back(self.port)

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        kind = {"Content-Type": request.content_type} if body else {}
        async with self._nodes.session.request(
            request.method, f"{self._url}/{request.match_info['rest']}", data=body or None, headers=kind
        ) as response:
            content = await response.read()
        if request.match_info["rest"] == "summaries":
            self.questions.append(decode(body, Question))
            answer = decode(content, Answer)
            content = encode(msgspec.structs.replace(answer, held=answer.held[:2], more=len(answer.held) > 2))
        return web.Response(
            status=response.status,
            body=content,
            content_type=MEDIA_TYPE if response.content_type == MEDIA_TYPE else "application/json",
        )


async def test_all_slices_are_asked_for_page_by_page(tmp_path: Path) -> None:
    """As many questions as pages, each beginning behind the last slice of the one before."""
    async with Nodes(tmp_path, workers=1) as nodes, Pages(nodes, "0") as pages:
        url = f"http://127.0.0.1:{pages.port}/worker"
        await nodes.restart_api(file=nodes.write(name="paged.json", worker_nodes={"0": url}))
        for at in range(5):
            await nodes.click(user(at), at=FIRST + at * HOUR)

        answer = await nodes.get(f"/allslices?timestamp={FIRST + 9 * HOUR}&format=json")
        assert [one["slice"] for one in answer.json["slices"]] == [0, 1, 2, 3, 4]
        assert [(one.after, one.until) for one in pages.questions] == [(None, 9), (1, 9), (3, 9)]


# --- how a question is put


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("timestamp=yesterday", "timestamp"),
        ("timestamp=1&timestamp=1", "timestamp"),
        ("format=xml", "format"),
        ("partial=maybe", "partial"),
        ("timestamp=%ff", None),
    ],
)
@pytest.mark.parametrize("path", ["", "/perworker", "/allslices"])
async def test_a_question_that_cannot_be_read_is_refused(
    tmp_path: Path, path: str, query: str, field: str | None
) -> None:
    async with Nodes(tmp_path) as nodes:
        answer = await nodes.get(f"{path}?{query}")

        assert (answer.status, answer.problem, answer.json.get("field")) == (400, "malformed", field)


async def test_the_form_of_an_answer_can_be_chosen(tmp_path: Path) -> None:
    """JSON by ``Accept`` or ``format``, of which the latter wins; nobody may keep it; other parameters are ignored."""
    async with Nodes(tmp_path, compat="rt") as nodes:
        await nodes.click()
        question = f"?timestamp={FIRST}&colour=red"
        text = await nodes.get(f"{question}&format=text", headers={"Accept": "application/json"})
        shown = await nodes.get(question, headers={"Accept": "application/json, */*"})
        slashed = await nodes.ask("GET", f"{nodes.api['0'].url}/{question}")

        assert text.text == slashed.text == "unqiue_users,1\nclicks,1\nimpressions,0\n"
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert shown.json == {
            "slice": 0,
            "start": "2017-05-20T00:00:00Z",
            "end": "2017-05-20T01:00:00Z",
            "unique_users": 1,
            "clicks": 1,
            "impressions": 0,
            "events": {"click": 1},
            "complete": True,
        }
        assert {one.headers["Cache-Control"] for one in (text, shown)} == {"no-store"}
        assert {one.headers["X-Complete"] for one in (text, shown)} == {"true"}


async def test_the_state_of_the_cluster_is_shown(tmp_path: Path) -> None:
    """Pins, routes proposed and settled, where they differ, and each worker; also while the registry is away."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        nodes.write(routing=[{"slice": 0, "nodes": ["0", "1"]}])

        async def differs() -> None:
            assert (await nodes.state())["differing"] == [{"slice": 0, "route": ["1"], "number": 1}]

        await eventually(differs)
        state = await nodes.state()
        assert state["settled"] == [{"slice": 0, "route": ["1"], "number": 1}]
        assert state["proposed"] == [{"slice": 0, "nodes": ["0", "1"]}]
        assert state["named"] == ["1"]
        assert [(one["id"], one["state"], one["queue_events"]) for one in state["workers"]] == [
            ("0", "ok", 0),
            ("1", "ok", 0),
        ]
        await nodes.worker["0"].stop()
        away = await nodes.state()
        assert (away["settled"], away["named"], away["pins"]) == ([], ["1"], state["pins"])
