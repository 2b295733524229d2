"""The first proposal wins for good, claims are numbered, and a lost registry never passes for the real one."""

from __future__ import annotations

import lmdb
import pytest

from common.errors import Contradicts, Malformed, RegistryBehind, WrongCluster, WrongWorker
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Claim, Pins, PinWorker, SettledRoute
from tests.support.worker_parts import no_failure
from worker_node.registry import RECENT_MAX, Door, Registry, RegistryThread

PINS = Pins(
    cluster="c", first=5, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={WorkerId("0"): "u"}
)
WIDE = Door(slices_max=1000)


@pytest.fixture
def registry(tmp_path):
    registry = Registry(folder=tmp_path)
    registry.open()
    yield registry
    registry.close()


@pytest.fixture
def pinned(registry):
    registry.pin(PINS)
    return registry


def claim(routes, *, claims=0, cluster="c"):
    return Claim(cluster=cluster, claims=claims, routes=routes)


def settle(registry, routes, *, known=0, door=WIDE, **changes):
    settled = registry.claim(claim(routes, **changes), known=known, door=door)
    return {one.slice: (one.route, one.number) for one in settled.routes}


def test_the_first_pins_win(registry):
    other = Pins(cluster="d", first=6, length_seconds=1, secret_id="t", registry=WorkerId("0"), workers={})

    assert registry.pin(PINS).pins == PINS
    assert registry.pin(other).pins == PINS


def test_the_first_claim_wins_for_good(pinned):
    assert settle(pinned, {7: ("0", "1")}) == {7: (("0", "1"), 1)}

    assert settle(pinned, {7: ("1",)}) == {7: (("0", "1"), 1)}


def test_claims_are_numbered_without_gaps(pinned):
    settle(pinned, {7: ("0",), -8: ("1",)})

    assert settle(pinned, {7: ("1",), 9: ("1",)}) == {7: (("0",), 1), 9: (("1",), 3)}
    assert pinned.claims == 3


def test_an_empty_route_only_asks(pinned):
    settle(pinned, {7: ("0",)})

    assert settle(pinned, {7: (), 8: ()}) == {7: (("0",), 1)}
    assert pinned.claims == 1


def test_everything_is_there_after_reopening(pinned, tmp_path):
    settle(pinned, {7: ("0", "1"), -8: ("2",)})
    before = pinned.state()
    pinned.close()

    again = Registry(folder=tmp_path)
    again.open()

    assert again.state() == before
    assert settle(again, {-8: ("5",), 3: ("1",)}) == {-8: (("2",), 2), 3: (("1",), 3)}
    again.close()


def test_the_state_names_the_workers_and_the_last_routes(pinned):
    settle(pinned, {number: ("0", "1") if number % 2 else ("2",) for number in range(RECENT_MAX + 5)})

    state = pinned.state()

    assert state.named == ("0", "1", "2")
    assert len(state.recent) == RECENT_MAX
    assert state.recent[-1] == SettledRoute(
        slice=SliceId(RECENT_MAX + 4), route=(WorkerId("2"),), number=RECENT_MAX + 5
    )


@pytest.mark.parametrize(("caller", "own"), [(1, 0), (0, 1), (5, 3)])
def test_a_registry_that_is_behind_claims_nothing(pinned, caller, own):
    """Whether the caller knows more, or this worker itself."""
    with pytest.raises(RegistryBehind):
        settle(pinned, {7: ("0",)}, claims=caller, known=own)

    assert pinned.claims == 0


def test_a_caller_of_another_cluster_gets_nothing(pinned):
    with pytest.raises(WrongCluster):
        settle(pinned, {7: ("0",)}, cluster="d")


def test_without_pins_nothing_is_settled(registry):
    with pytest.raises(Contradicts):
        settle(registry, {7: ("0",)})


def test_a_worker_that_comes_later_is_pinned_once(pinned):
    pin = PinWorker(cluster="c", id=WorkerId("1"), uuid="v")

    for _ in range(2):
        assert pinned.pin_worker(pin).pins.workers == {"0": "u", "1": "v"}
    with pytest.raises(WrongWorker):
        pinned.pin_worker(PinWorker(cluster="c", id=WorkerId("1"), uuid="w"))
    with pytest.raises(WrongCluster):
        pinned.pin_worker(PinWorker(cluster="d", id=WorkerId("1"), uuid="v"))


@pytest.mark.parametrize("routes", [{1 << 63: ("0",)}, {0: ("0", "0")}, {0: tuple(map(str, range(1025)))}])
def test_what_is_no_route_settles_nothing(pinned, routes):
    with pytest.raises(Malformed):
        settle(pinned, {1: ("0",), **routes})

    assert pinned.claims == 0


def test_over_the_bound_only_the_current_slice_and_the_next_are_settled(pinned):
    door = Door(slices_max=2, now=SliceId(10))
    settle(pinned, {1: ("0",), 2: ("0",)})

    settled = pinned.claim(claim({3: ("0",), 10: ("0",), 11: ("0",), 12: ("0",), 2: ("0",)}), known=0, door=door)

    assert sorted(one.slice for one in settled.routes) == [2, 10, 11]
    assert settled.over == (3, 12)


def test_slices_that_are_closed_by_their_time_leave_room(pinned):
    settle(pinned, {1: ("0",), 2: ("0",), 8: ("0",)})

    settled = pinned.claim(claim({9: ("0",), 7: ("0",)}), known=0, door=Door(slices_max=2, first_open=SliceId(5)))

    assert [one.slice for one in settled.routes] == [9]
    assert settled.over == (7,)


async def test_after_a_failed_commit_the_process_is_told_to_end(tmp_path):
    class Failing(Registry):
        def pin(self, pins):
            raise lmdb.DiskError("mdb_txn_commit")

    failures: list[BaseException] = []
    async with RegistryThread(registry=Failing(folder=tmp_path), fail=failures.append) as thread:
        with pytest.raises(lmdb.DiskError):
            await thread.ask(lambda registry: registry.pin(PINS))

    assert [type(failure) for failure in failures] == [lmdb.DiskError]


async def test_a_registry_that_is_never_asked_makes_no_file(tmp_path):
    async with RegistryThread(registry=Registry(folder=tmp_path), fail=no_failure):
        pass

    assert list(tmp_path.iterdir()) == []
