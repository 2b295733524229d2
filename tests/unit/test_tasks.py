"""Background tasks: owned, guarded, and gone when their owner is."""

from __future__ import annotations

import asyncio
import io

from common.logs import new_log
from common.tasks import Tasks
from tests.support.events import CANARY


async def forever(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


async def fail() -> None:
    raise KeyError(CANARY)


async def nothing() -> None:
    pass


async def test_what_is_left_is_cancelled_when_the_owner_leaves() -> None:
    """Leaving waits until the tasks have cleaned up after themselves."""
    ended: list[str] = []
    async with Tasks(log=new_log("api-0", stream=io.StringIO())) as tasks:
        running = tasks.start("forever", forever(ended))
        await asyncio.sleep(0)

    assert running.cancelled()
    assert ended == ["ended"]
    assert tasks.reason() is None


async def test_a_task_that_dies_is_told_and_remembered() -> None:
    """In the log without what the exception quotes; and the node is not ready any more."""
    written = io.StringIO()
    async with Tasks(log=new_log("api-0", stream=written)) as tasks:
        await asyncio.wait([tasks.start("watch", fail()), tasks.start("short", nothing())])
        await asyncio.sleep(0)

        assert tasks.reason() == "background tasks died: watch"
        assert tasks.failed == ["watch"]

    assert "event=task_died task=watch" in written.getvalue()
    assert "KeyError" in written.getvalue()
    assert CANARY not in written.getvalue()


async def test_what_dies_again_and_again_is_remembered_once() -> None:
    async with Tasks(log=new_log("api-0", stream=io.StringIO())) as tasks:
        for _ in range(3):
            tasks.start("question", fail())
            await asyncio.sleep(0.01)

    assert tasks.reason() == "background tasks died: question"
