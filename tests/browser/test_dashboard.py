"""The dashboard as people have it: in Chromium, in front of real nodes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import expect

from common.tokens import Scope, entry_of, new_token, write_entries
from dashboard.snapshot import Current, Past, Snapshot, Worker
from tests.support.browser import PHONE, Chromium, Visit
from tests.support.cluster import FIRST, HOUR
from tests.support.events import CANARY
from tests.support.live import Stage
from tests.support.nodes import PATIENT, Nodes, until
from tests.support.snapshots import Source, snapshot

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=30_000)  # milliseconds; on a busy machine a snapshot may be late
LONG = "a-type-of-event-whose-name-is-as-long-as-any-name-may-be-x-64.ch"
NASTY = '<img src=x onerror="document.title=1">'
LOST = "net::ERR_"  # what the browser says of a server that is gone


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Chromium]:
    async with Chromium() as browser:
        yield browser


def base_of(nodes: Nodes) -> str:
    return nodes.api["0"].node.base


async def feed(nodes: Nodes, *, types: int = 0) -> None:
    """Some users and events, now and in the slices before."""
    lines = [
        {"timestamp": FIRST - back * HOUR, "user": f"{CANARY}-{n}", "event": kind}
        for back in range(5)
        for n in range(12 + back)
        for kind in ("click", "impression", "impression", LONG)
    ]
    lines += [{"timestamp": FIRST, "user": f"{CANARY}-1", "event": f"type-{n:03}"} for n in range(types)]
    answer = await nodes.session.post(f"{base_of(nodes)}/events", json=lines)
    assert answer.status == 202


def worker(name: str, **more: Any) -> Worker:
    plain: dict[str, Any] = {
        "id": name, "state": "ok", "detail": None, "in_route": True, "users": 5, "events": 9, "queue_events": 0,
        "spool_events": 0, "parked": 0, "silent_seconds": 0.1,
    }  # fmt: skip
    return Worker(**{**plain, **more})


def busy(**shown: Any) -> Snapshot:
    """A snapshot with something in every place, and names as nasty as they come."""
    slices = list(range(-10, 14))
    current = Current(
        slice=13, start=1_700_000_000_000, end=1_700_003_600_000, users=10, clicks=4, impressions=5, others=9,
        types=[(NASTY, 6), ("search", 3)], types_more=0, events_more=0, complete=True, silent=(),
    )  # fmt: skip
    past = Past(
        slices=slices, start=[1_700_000_000.0 + 3600 * (at - 13) for at in slices], users=[10] * 24, clicks=[4] * 24,
        impressions=[5] * 24, others=[9] * 24, complete=[True] * 24,
    )  # fmt: skip
    workers = [worker("0"), worker("1", state="refused", detail=NASTY)]
    return snapshot(1_700_001_800_000, **{"current": current, "past": past, "workers": workers, **shown})


async def test_the_numbers_move_when_events_come(tmp_path: Path, chromium: Chromium) -> None:
    """Figures, rates, shares and the table of the chart, without anybody doing anything."""
    async with Nodes(tmp_path, deadlines=PATIENT, event_types="any") as nodes, chromium.visit(base_of(nodes)) as visit:
        await visit.live()
        first = await visit.text("#first")
        for n in range(3):
            await nodes.click(f"{CANARY}-{n}")
        await expect(visit.page.locator("#users")).to_have_text("3")
        await nodes.post(f"timestamp={FIRST}&user={CANARY}-9&event=search")
        await expect(visit.page.locator("#users")).to_have_text("4")
        await visit.page.get_by_text("The same numbers as a table").click()
        row = visit.page.locator("#past-rows tr").first
        await expect(row).to_have_text(re.compile("4301$"))
        rate = await visit.text("#rate-cluster")

        assert "curl -X POST" in first
        assert await visit.page.locator("#first").is_hidden()
        assert (await visit.text("#clicks"), await visit.text("#others")) == ("3", "1")
        assert re.sub(r"\s+", " ", await visit.text("#types-list")) == "search 1"
        assert float(rate) > 0
        assert float(await visit.text("#rate-node")) > 0
        assert await visit.page.locator("#chart canvas").count() == 1
        parts = await visit.page.locator("#worker-rows .of").all_inner_texts()
        assert sum(float(part.removesuffix(" %")) for part in parts) == pytest.approx(100, abs=0.2)


async def test_a_stopped_worker_turns_visible(tmp_path: Path, chromium: Chromium) -> None:
    """In the table, above the figures, and aloud; the figures stay, as what there is at least; then all is well."""
    async with Nodes(tmp_path, deadlines=PATIENT) as nodes, chromium.visit(base_of(nodes)) as visit:
        await feed_clicks(nodes)
        health = visit.page.locator("#worker-rows tr").nth(1).locator(".health")
        await expect(visit.page.locator("#users")).to_have_text("8")
        await expect(health).to_have_text("Healthy")
        await nodes.worker["1"].stop()
        await expect(health).to_have_text("Away")
        await expect(visit.page.locator("#users")).to_have_text("≥ 8")
        notice = await visit.text("#notices")
        await expect(visit.page.locator("#announce")).to_have_text("Not healthy: worker 1")
        violations = await visit.violations()
        await nodes.start_worker("1")
        await expect(health).to_have_text("Healthy")
        await expect(visit.page.locator("#users")).to_have_text("8")
        await expect(visit.page.locator("#announce")).to_have_text("All workers are healthy")

    assert "worker 1 does not answer" in notice
    assert violations == []


async def feed_clicks(nodes: Nodes) -> None:
    for n in range(8):
        assert (await nodes.click(f"{CANARY}-{n}")).status == 202


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
async def test_axe_finds_nothing(
    tmp_path: Path, chromium: Chromium, scheme: Literal["light", "dark"], size: Literal["desk", "phone"]
) -> None:
    """Contrast, names, roles, order: with everything open, many types, and each explanation in its turn."""
    how: dict[str, Any] = {
        "color_scheme": scheme,
        **({"viewport": PHONE, "has_touch": True} if size == "phone" else {}),
    }
    any_type = Nodes(tmp_path, deadlines=PATIENT, event_types="any")
    async with any_type as nodes, chromium.visit(base_of(nodes), **how) as visit:
        empty = await emptied(visit)
        await feed(nodes, types=200)
        await visit.page.get_by_text("The same numbers as a table").click()
        await expect(visit.page.locator("#types-more")).to_contain_text("189 smaller types")
        full = await visit.violations()
        shown = []
        explanations = await visit.page.locator("button.help").all() if size == "desk" else []
        for button in explanations:
            await button.click()
            shown += await visit.violations()
            await visit.page.keyboard.press("Escape")
        wide = await visit.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    assert (empty, full, shown) == ([], [], [])
    assert wide == 0


async def emptied(visit: Visit) -> list[str]:
    await visit.live()
    return await visit.violations()


async def test_everything_is_reached_by_keyboard(tmp_path: Path, chromium: Chromium) -> None:
    """Tab comes by every control once, in the order of the page, and each shows that it has the focus."""
    async with Nodes(tmp_path, deadlines=PATIENT) as nodes, chromium.visit(base_of(nodes)) as visit:
        await visit.live()
        await visit.page.locator("summary").focus()
        await visit.page.keyboard.press("Enter")
        await expect(visit.page.locator("#past-rows tr").first).to_be_visible()
        wanted = await visit.page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, summary, input, [tabindex='0']")]
                .filter((one) => one.checkVisibility()).map((one, i) => (one.dataset.at = String(i)))"""
        )
        await visit.page.evaluate("document.activeElement.blur(); document.body.focus()")
        await visit.page.locator("body").click(position={"x": 1, "y": 1})
        reached = []
        for _ in wanted:
            await visit.page.keyboard.press("Tab")
            at, outlined = await visit.page.evaluate(
                "[document.activeElement.dataset.at, getComputedStyle(document.activeElement).outlineStyle]"
            )
            reached.append(at)
            assert outlined != "none", at
        await visit.page.locator("#legend button").first.focus()
        await visit.page.keyboard.press("Space")
        pressed = await visit.page.locator("#legend button").first.get_attribute("aria-pressed")
        await visit.page.locator("button.help").first.focus()
        await visit.page.keyboard.press("Enter")
        await expect(visit.page.locator("#help-now")).to_be_visible()
        await visit.page.keyboard.press("Escape")
        await expect(visit.page.locator("#help-now")).to_be_hidden()

    assert reached == wanted
    assert pressed == "false"


async def test_a_lost_connection(tmp_path: Path, chromium: Chromium) -> None:
    """It is said, with the age of the figures, which stay; when the node is back, so is the page."""
    async with Nodes(tmp_path, deadlines=PATIENT) as nodes, chromium.visit(base_of(nodes)) as visit:
        visit.expected = (LOST, "503")
        await feed_clicks(nodes)
        await expect(visit.page.locator("#users")).to_have_text("8")
        await nodes.api["0"].stop()
        status = visit.page.locator("#status")
        await expect(status).to_have_attribute("data-state", "lost")
        await expect(status).to_contain_text("No connection")
        kept = await visit.text("#users")
        await nodes.start_api("0")
        await expect(status).to_have_attribute("data-state", "live")

    assert kept == "8"


async def test_stale_figures_say_so(chromium: Chromium) -> None:
    """The connection stands, and nothing comes: the page knows by its own clock."""
    source = Source()
    async with Stage(source) as stage, chromium.visit(stage.base) as visit:
        await source.make()
        await visit.live()
        await expect(visit.page.locator("#status")).to_have_attribute("data-state", "stale")
        await expect(visit.page.locator("#status")).to_contain_text("Stale")
        old = await visit.page.locator("#figures").get_attribute("data-old")
        await source.make()
        await expect(visit.page.locator("#status")).to_have_attribute("data-state", "live")
        await expect(visit.page.locator("#figures")).to_have_attribute("data-old", "false")

    assert old == "true"


async def test_a_hidden_page_reads_nothing(chromium: Chromium) -> None:
    """A forgotten tab costs the node nothing; looked at again, it is live at once."""

    async def collect() -> Snapshot:
        return busy()

    async with Stage(collect, tick_seconds=0.2) as stage, chromium.visit(stage.base) as visit:
        await visit.live()
        show = """(state) => { Object.defineProperty(document, "hidden", { value: state, configurable: true });
            document.dispatchEvent(new Event("visibilitychange")); }"""
        await visit.page.evaluate(show, True)  # noqa: FBT003 - JavaScript's argument
        await until(lambda: stage.feed.viewers == 0, seconds=20)
        await visit.page.evaluate(show, False)  # noqa: FBT003 - likewise
        await until(lambda: stage.feed.viewers == 1, seconds=20)


async def test_texts_are_shown_as_texts(chromium: Chromium) -> None:
    """Names come from whoever sends events, reasons from files: none of it is ever read as HTML."""

    async def collect() -> Snapshot:
        return busy(workers_more=3)

    async with Stage(collect) as stage, chromium.visit(stage.base) as visit:
        await visit.live()
        types, why = await visit.text("#types-list"), await visit.text("#worker-rows")
        title, images = await visit.page.title(), await visit.page.locator("main img").count()
        more = await visit.text("#workers-note")

    assert NASTY in types
    assert NASTY in why
    assert (title.startswith("Tallyslice"), images) == (True, 0)
    assert "3 more" in more


async def test_a_node_that_has_not_met_its_cluster(tmp_path: Path, chromium: Chromium) -> None:
    """There are no figures yet; the page says what the node waits for."""
    async with Nodes(tmp_path, deadlines=PATIENT, start=False) as nodes:
        await nodes.start_api("0", ready=False)
        async with chromium.visit(base_of(nodes)) as visit:
            await expect(visit.page.locator("#now-title")).to_have_text("No slices yet")
            notices = await visit.text("#notices")
            violations = await visit.violations()

    assert notices
    assert violations == []


async def test_a_token_is_asked_for(tmp_path: Path, chromium: Chromium) -> None:
    """It goes in a header and stays in the tab: no URL has it. One that may not read is told apart from a wrong one."""
    tokens = {scope: new_token() for scope in (Scope.READ, Scope.WRITE)}
    write_entries(
        tmp_path / "tokens.json",
        [entry_of(token, name=scope.value, scopes=[scope]) for scope, token in tokens.items()],
    )
    async with (
        Nodes(tmp_path, deadlines=PATIENT, tokens_file="tokens.json") as nodes,
        chromium.visit(base_of(nodes)) as visit,
    ):
        visit.expected = ("401", "403")
        why, field = visit.page.locator("#token-why"), visit.page.locator("#token")
        await expect(field).to_be_focused()
        violations = await visit.violations()
        for token, text in (("wrong", "not one that this node knows"), (tokens[Scope.WRITE], "lacks the scope read")):
            await field.fill(token)
            await visit.page.keyboard.press("Enter")
            await expect(why).to_contain_text(text)
        await field.fill(tokens[Scope.READ])
        await visit.page.get_by_role("button", name="Show the figures").click()
        await visit.live()
        await visit.page.reload()
        await visit.live()
        kept = await visit.page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")

        assert violations == []
        assert kept == [1, 0, ""]
        assert not [url for url in visit.asked if "wrong" in url or any(token in url for token in tokens.values())]
