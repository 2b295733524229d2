"""Lines on their way into a cluster: how they are cut, which ids they get, and what an answer means for each."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyslice.send.fates import fates_of
from tallyslice.send.source import LINE_BYTES_MAX, PARCEL_LINES_MAX, Lines, Parcel, Source, SourceFailed, with_id

PROBLEM = "urn:tallyslice:problem:"


def numbered(parcels: list[Parcel]) -> list[tuple[int, bytes]]:
    return [one for parcel in parcels for one in zip(parcel.numbers, parcel.lines, strict=True)]


@given(st.lists(st.sampled_from([b"{}", b"a b", b"", b"  ", b"\r"]), max_size=30), st.lists(st.integers(0, 99)))
def test_however_it_is_read_the_lines_are_those_of_an_editor(lines: list[bytes], cuts: list[int]) -> None:
    """Cut anywhere, each line comes once, with its number; blank ones are left out."""
    content = b"\n".join(lines)
    places = sorted({0, *(cut for cut in cuts if cut < len(content)), len(content)})
    cutter = Lines()
    found = [parcel for start, end in pairwise(places) for parcel in cutter.feed(content[start:end])]
    found += cutter.end()

    assert numbered(found) == [(n, line) for n, line in enumerate(lines, 1) if line.strip()]


def test_a_parcel_is_bounded() -> None:
    """In lines; and a line that no event can be is told by its number, and kept nowhere."""
    cutter = Lines()
    found = [*cutter.feed(b"{}\n" * (PARCEL_LINES_MAX + 1))]
    for _ in range(3):
        found += cutter.feed(b"x" * LINE_BYTES_MAX)
    found += [*cutter.feed(b"\n{}\n"), *cutter.end()]

    assert [len(parcel.lines) for parcel in found] == [PARCEL_LINES_MAX, 2]
    assert [*found[1].too_long] == [PARCEL_LINES_MAX + 2]
    assert [*found[1].numbers] == [PARCEL_LINES_MAX + 1, PARCEL_LINES_MAX + 3]


EVENT = b'{"timestamp": 1, "user": "x", "event": "click"}'


def test_an_id_is_given_where_there_is_none() -> None:
    """The same for the same name, number and line; another for each other one. What has one keeps it."""
    given = [with_id(EVENT, 1, b"a"), with_id(EVENT, 1, b"a"), with_id(EVENT, 2, b"a"), with_id(EVENT, 1, b"b")]
    ids = [json.loads(line).pop("id") for line in given]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert json.loads(given[0]) == {**json.loads(EVENT), "id": ids[0]}
    kept = (b'{"id": "1"}', b'{"messageId": "1"}', b"{}", b"{ }", b"[1]", b"nonsense", b'{"a": ')
    assert [with_id(line, 1, b"a") for line in kept] == [*kept]
    assert json.loads(with_id(b'{"id": null} ', 1, b"a"))["id"]


async def read(path: Path) -> list[tuple[int, bytes]]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = Source(descriptor=descriptor)
        source.start()
        found = []
        while (parcel := await source.get()) is not None:
            found.append(parcel)
        return numbered(found)
    finally:
        os.close(descriptor)


async def test_what_is_packed_is_unpacked(tmp_path: Path) -> None:
    """gzip, also in several members; told by how it begins, not by its name."""
    content = b"".join(b'{"n": %d}\n' % n for n in range(20_000))
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content[:70_000]) + gzip.compress(content[70_000:]))
    (tmp_path / "empty").write_bytes(b"")

    assert await read(tmp_path / "packed") == await read(tmp_path / "plain")
    assert len(await read(tmp_path / "plain")) == 20_000
    assert await read(tmp_path / "empty") == []


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-9], lambda packed: packed[:40] + b"\xff" * 40])
async def test_what_is_damaged_is_told(tmp_path: Path, spoil) -> None:
    """A packed file that ends too early, or is none."""
    (tmp_path / "packed").write_bytes(spoil(gzip.compress(os.urandom(200).hex().encode() * 10)))

    with pytest.raises(SourceFailed):
        await read(tmp_path / "packed")


async def test_what_trickles_in_goes_out_at_once() -> None:
    """A parcel is not held back until it is full while whoever writes into the pipe takes a break."""
    reading, writing = os.pipe()
    source = Source(descriptor=reading)
    source.start()
    os.write(writing, EVENT + b"\n" + EVENT[:9])
    first = await asyncio.wait_for(source.get(), 30)
    os.write(writing, EVENT[9:])
    os.close(writing)
    second = await asyncio.wait_for(source.get(), 30)

    assert first is not None
    assert second is not None
    assert numbered([first, second]) == [(1, EVENT), (2, EVENT)]
    assert await source.get() is None
    assert await source.get() is None
    os.close(reading)


def answer(**members) -> bytes:
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    ("status", "body", "again", "slugs"),
    [
        (202, answer(accepted=3, rejected=0, repeated=0, errors=[]), [], []),
        (
            202,
            answer(accepted=2, errors=[{"index": 1, "type": PROBLEM + "malformed", "detail": "d", "retry": False}]),
            [],
            ["malformed"],
        ),
        (
            503,
            answer(
                accepted=0, errors=[{"index": n, "type": PROBLEM + "not-taken", "retry": n != 1} for n in range(3)]
            ),
            [0, 2],
            ["not-taken"] * 3,
        ),
        (503, answer(type=PROBLEM + "not-taken"), [0, 1, 2], ["not-taken"] * 3),
        (429, b"slow down", [0, 1, 2], ["not-taken"] * 3),
        (400, answer(type=PROBLEM + "malformed"), [], ["malformed"] * 3),
        # From here on nobody knows: only the line with an id, the second one, is sent again.
        (503, b"<html>", [1], ["outcome-unknown"] * 3),
        (500, answer(type=PROBLEM + "internal"), [1], ["outcome-unknown"] * 3),
        (202, b"", [1], ["outcome-unknown"] * 3),
        (202, answer(accepted=3, errors=[{"index": 0, "type": "x"}]), [1], ["outcome-unknown"] * 3),
    ],
)  # fmt: skip
def test_what_an_answer_means_for_each_line(status: int, body: bytes, again: list[int], slugs: list[str]) -> None:
    fates = fates_of(status, body, 3, has_id=lambda position: position == 1)

    assert [refusal.position for refusal in fates.refusals if refusal.again] == again
    assert [refusal.slug for refusal in fates.refusals] == slugs


def test_too_much_for_one_request_goes_in_halves() -> None:
    """Down to one line, which is refused."""
    assert fates_of(413, b"", 2, has_id=bool).too_large
    assert [refusal.again for refusal in fates_of(413, b"", 1, has_id=bool).refusals] == [False]
