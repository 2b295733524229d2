"""The live table and its plain form: what they show of a view."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console, RenderableType

from common.routing import WorkerId
from common.slices import Micros, SliceClock, SliceId
from common.summaries import Summary
from tallyslice.load.reconcile import Difference
from tallyslice.load.table import View, differences_table, line, live_table, rows

CLOCK = SliceClock(first=Micros(1_495_238_400_500_000), length_seconds=60)


def summary(slice_id: int, users: int, **counts: int) -> Summary:
    return Summary(slice=SliceId(slice_id), users=users, counts=counts)


def view(*, slices: int = 2) -> View:
    summaries = {SliceId(n): summary(n, 1_234, click=300, impression=1_700) for n in range(slices)}
    return View(
        phase="feeding",
        rows=rows(
            summaries=summaries,
            routes={SliceId(0): (WorkerId("0"),), SliceId(1): (WorkerId("0"), WorkerId("3"))},
            clock=CLOCK,
            current=SliceId(1),
            earlier={SliceId(0): summaries[SliceId(0)], SliceId(1): summary(1, 1_000, click=200, impression=1_400)},
            seconds=2,
        ),
        elapsed_seconds=12.3,
        seconds=60,
        drawn=2_460,
        acknowledged=2_450,
        retried=0,
        refused=0,
        waiting=10,
        behind=0,
        rate=200.4,
    )


def shown(what: RenderableType) -> str:
    console = Console(file=StringIO(), width=110, color_system=None)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_a_row_has_what_is_known_of_its_slice() -> None:
    """Number, start in whole seconds, users, clicks, impressions, workers, and the rate at which it grows."""
    lines = shown(live_table(view(), height=30)).splitlines()

    cells = [[cell.strip() for cell in text.split("│")[1:-1]] for text in lines if "│" in text]
    assert cells == [
        ["0", "2017-05-20 00:00:00", "1,234", "300", "1,700", "0", ""],
        ["1", "2017-05-20 00:01:00", "1,234", "300", "1,700", "0 3", "200"],
    ]


def test_bar_and_counters_follow_the_rows() -> None:
    """Trouble is named only when there is some."""
    calm = shown(live_table(view(), height=30))
    rough = shown(live_table(replace(view(), refused=3, behind=40, problem="api-0 does not answer"), height=30))

    assert "feeding, 12 of 60 s" in calm
    assert "2,450 acknowledged, 200 a second, 10 under way, 0 sent again\n" in calm
    assert "0 sent again, 3 refused, 40 requests behind schedule\n" in rough
    assert "api-0 does not answer" in rough


def test_only_the_newest_slices_are_shown_where_the_terminal_is_small() -> None:
    text = shown(live_table(view(slices=50), height=20))

    assert len(text.splitlines()) < 20
    assert "40 older slices are not shown" in text
    assert "2017-05-20 00:49:00" in text


def test_an_incomplete_slice_says_so() -> None:
    incomplete = Summary(slice=SliceId(0), users=1, counts={"click": 1}, complete=False)
    (row,) = rows(summaries={SliceId(0): incomplete}, routes={}, clock=CLOCK, current=SliceId(9), earlier={}, seconds=0)

    assert "0 (incomplete)" in shown(live_table(replace(view(), rows=[row]), height=30))


def test_the_line_is_plain_and_tells_the_newest_slices() -> None:
    text = line(view(slices=9))

    assert "\x1b" not in text
    assert "\n" not in text
    assert text.startswith("feeding, 12 of 60 s: 2,450 acknowledged")
    assert "slice 8: 1,234 users, 300 clicks, 1,700 impressions, workers ?" in text
    assert "slice 5:" not in text


def test_differences_are_listed_with_their_node_up_to_a_bound() -> None:
    found = [
        ("http://localhost:8000", Difference(slice=SliceId(n), what="users", least=5, most=6, counted=7))
        for n in range(50)
    ]
    text = shown(differences_table(found))

    assert "│ http://localhost:8000 │ 0     │ users  │ 5 to 6       │ 7       │" in text
    assert "and 10 more" in text
