"""Of what two nodes know of one cluster's constants, the newer counts; what cannot both be true is refused."""

from __future__ import annotations

import msgspec
import pytest

from common.pins import PinsDiffer, merge_pins
from common.routing import WorkerId
from common.wire import Pins

PINS = Pins(
    cluster="c",
    first=5,
    length_seconds=60,
    secret_id="s",
    registry=WorkerId("0"),
    workers={WorkerId("0"): "u", WorkerId("1"): "v"},
)


def changed(**changes):
    return msgspec.structs.replace(PINS, **changes)


def both_ways(one, other):
    together = merge_pins(one, other)
    assert merge_pins(other, one) == together
    return together


def test_the_same_stays_the_same():
    assert both_ways(PINS, PINS) == PINS


def test_a_worker_that_came_later_is_there():
    assert both_ways(changed(workers={"0": "u"}), changed(workers={"1": "v"})).workers == PINS.workers


def test_the_later_directory_of_a_worker_counts():
    second = changed(workers={"0": "u", "1": "w"}, replaced={"1": 7})
    third = changed(workers={"0": "u", "1": "x"}, replaced={"1": 9})

    assert both_ways(PINS, second) == second
    assert both_ways(second, third) == third
    assert both_ways(PINS, third) == third


def test_what_was_replaced_apart_comes_together():
    one, other = changed(workers={"0": "a"}, replaced={"0": 7}), changed(workers={"1": "b"}, replaced={"1": 8})

    assert both_ways(one, other) == changed(workers={"0": "a", "1": "b"}, replaced={"0": 7, "1": 8})


def test_the_later_instant_counts():
    assert both_ways(PINS, changed(unknown_before=7)).unknown_before == 7
    assert both_ways(changed(unknown_before=9), changed(unknown_before=7)).unknown_before == 9


@pytest.mark.parametrize(
    "other",
    [
        {"cluster": "d"}, {"first": 6}, {"length_seconds": 61}, {"secret_id": "t"}, {"registry": "1"},
        {"workers": {"1": "w"}},
    ],
)  # fmt: skip
def test_what_cannot_both_be_true_is_refused(other):
    for one, two in ((PINS, changed(**other)), (changed(**other), PINS)):
        with pytest.raises(PinsDiffer):
            merge_pins(one, two)
