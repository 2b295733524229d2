"""Only so much may wait; who finds the room full waits in line, until a deadline."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import Unavailable
from worker_node.room import Load, Room

LONG = 30.0


@pytest.fixture
def room():
    return Room(events_max=10, bytes_max=100)


def waiting(room, load):
    return asyncio.create_task(room.take(load, deadline_seconds=LONG))


async def let_run():
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_fits_gets_in_at_once(room):
    await room.take(Load(5, 50), deadline_seconds=0)
    await room.take(Load(5, 50), deadline_seconds=0)

    assert (room.events, room.body_bytes) == (10, 100)


@pytest.mark.parametrize("load", [Load(6, 1), Load(1, 60)])
async def test_either_bound_keeps_others_out_until_the_deadline(room, load):
    await room.take(Load(5, 50), deadline_seconds=0)

    with pytest.raises(Unavailable):
        await room.take(load, deadline_seconds=0.01)

    assert (room.events, room.body_bytes) == (5, 50)


async def test_what_is_over_the_bound_by_itself_gets_in_alone(room):
    await room.take(Load(1000, 1000), deadline_seconds=0)

    assert room.events == 1000


async def test_those_in_line_come_in_their_order(room):
    """The small one behind does not overtake, or the big one would wait forever."""
    await room.take(Load(5, 5), deadline_seconds=0)
    big, small = waiting(room, Load(10, 10)), waiting(room, Load(1, 1))
    await let_run()
    assert not small.done()

    room.give(Load(5, 5))
    await let_run()
    assert (big.done(), small.done()) == (True, False)

    room.give(Load(10, 10))
    await let_run()
    assert small.done()
    await asyncio.gather(big, small)


async def test_one_who_leaves_the_line_does_not_hold_up_those_behind(room):
    await room.take(Load(5, 5), deadline_seconds=0)
    big, small = waiting(room, Load(10, 10)), waiting(room, Load(1, 1))
    await let_run()

    big.cancel()
    await let_run()

    assert small.done()
    assert room.events == 6


async def test_one_who_is_cancelled_just_after_being_let_in_gives_its_room_back(room):
    await room.take(Load(5, 5), deadline_seconds=0)
    big = waiting(room, Load(10, 10))
    await let_run()

    room.give(Load(5, 5))
    big.cancel()
    await let_run()

    assert big.cancelled()
    assert room.events == 0
