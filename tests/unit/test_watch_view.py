"""What `tallyslice watch` shows: it fits, and says what is known, and how old that is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from common.slices import SECOND, Micros, SliceClock, SliceId
from tallyslice.health import WorkerSeen
from tallyslice.query import SliceAnswer
from tallyslice.watch.look import SLICES, Seen
from tallyslice.watch.view import line, screen

CLOCK = SliceClock(first=Micros(1_495_238_400 * SECOND), length_seconds=3600)
CURRENT = SliceId(41)


def seen(*, workers: int = 4, problems: int = 0, stale_seconds: float = 0) -> Seen:
    slices = [
        SliceAnswer(slice=at, unique_users=at, events={"click": 10 * at, "impression": at, "purchase": 1})
        for at in map(SliceId, range(CURRENT - SLICES + 1, CURRENT + 1))
    ]
    return Seen(
        node="api-0",
        at=Micros(CLOCK.start(CURRENT) + 60 * SECOND),
        clock=CLOCK,
        current=CURRENT,
        slices={one.slice: one for one in slices},
        workers=[SliceAnswer(slice=CURRENT, worker=str(n), unique_users=10**9) for n in range(workers)],
        states={str(n): WorkerSeen(id=str(n), state="away" if n == 0 else "ok") for n in range(workers)},
        rate=1234,
        rates=[float(n) for n in range(60)],
        problems=[f"problem {n}, in rather many words, so that it does not fit in one line" for n in range(problems)],
        stale_seconds=stale_seconds,
    )


def shown(one: Seen, *, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True, color_system=None)
    console.print(screen(one, width=width, height=height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("workers", [1, 4, 100])
@pytest.mark.parametrize("problems", [0, 1, 50])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_it_fits(workers: int, problems: int, width: int, height: int) -> None:
    """However many workers and problems there are; the current slice is always there."""
    lines = shown(seen(workers=workers, problems=problems), width=width, height=height)

    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert any(text.split()[:1] == ["41"] for text in lines)
    assert "ends in 59:00" in lines[0]


def test_it_says_what_is_wrong() -> None:
    """A worker that is away, and that nobody has answered for a while."""
    text = "\n".join(shown(seen(stale_seconds=12)))

    assert "STALE" in text
    assert "! stale for 12 s" in text
    assert "! worker 0 is away" in text


def test_a_line_has_the_same_figures() -> None:
    assert line(seen(workers=0)) == (
        "2017-05-21T17:01:00Z slice 41: 41 users, 410 clicks, 41 impressions, 1 purchases, 1,234 events a second"
    )


def test_before_the_first_answer() -> None:
    """It waits, and says for what."""
    nothing = Seen(node="api-0", at=Micros(0), problems=["http://localhost:8000 does not answer"], stale_seconds=1)

    assert "! http://localhost:8000 does not answer" in shown(nothing)
    assert line(nothing).startswith("no answer yet: http://localhost:8000")
