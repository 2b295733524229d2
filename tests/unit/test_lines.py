"""Many events in one body: each line is read by itself, whatever stands beside it, before and behind it."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Malformed, TooLarge
from common.lines import LINES_MAX, PIECE_BYTES_MAX, Line, Piece, read_fields, read_json_events, read_ndjson
from tests.support.events import CANARY

patient = settings(deadline=None)  # of a machine that does other things too

Told = dict[str, str] | str | None
"""What a line says, its timestamp as it was written; or the field that it is refused for, None if it is no event."""

TIMESTAMPS = ["timestamp", "dt", "ts"]
USERS = ["user", "userid", "userId"]
IDS = ["id", "messageId"]

WHOLE = '{"timestamp": 1495242000, "user": "ada", "event": "click"}'
ADA: Told = {"timestamp": "1495242000", "user": "ada", "event": "click"}


def told(pieces: Iterable[Piece]) -> list[Told]:
    """What all lines say, in their order; nothing of a line that is refused is quoted."""
    found: list[Told] = []
    for piece in pieces:
        for index, line in enumerate(piece.lines):
            if isinstance(line, Malformed):
                assert CANARY not in str(line)
                found.append(line.field)
                continue
            assert repr(line) == "Line()"
            said: dict[str, str] = {}
            for name, names in (("timestamp", TIMESTAMPS), ("user", USERS), ("event", ["event"]), ("id", IDS)):
                values = [value for one in names if (value := getattr(line, one)) is not None]
                for value in values:
                    said[name] = piece.digits(index) if isinstance(value, float) else str(value)
                if len(values) > 1:
                    said[name] = "twice"
            found.append(said)
    return found


# --- lines, each with what it says

names = st.text(min_size=1, max_size=5)
written = st.sampled_from(
    ["1495242000", "1495242000.25", "1495242000123", "1495245599.99999999999", "1e9", "-1.5", "0", '"1495242000.5"',
     '"2017-05-20T01:00:00Z"', "123456789012345678901234567890", "1495242000.123456789123456789"]
)  # fmt: skip
rest = st.sampled_from(
    ["", ', "colour": "red"', ', "price": 1.5, "x": null', ', "timestamps": [{"user": "b"}]', ', "id": null',
     ', "dt": null, "userid": null', ', "click": true', ', "p": "\\ud83d\\ude00 \\" \\n"']
)  # fmt: skip
edge = st.sampled_from(["", " ", "\t", " \r"])


@st.composite
def good_lines(draw: st.DrawFn) -> tuple[str, Told]:
    """An event, and what it says."""
    said = {"timestamp": draw(written), "user": draw(names), "event": draw(st.sampled_from(["click", "x.y"]))}
    members = [
        f'"{draw(st.sampled_from(TIMESTAMPS))}": {said["timestamp"]}',
        f'"{draw(st.sampled_from(USERS))}": {json.dumps(said["user"], ensure_ascii=draw(st.booleans()))}',
        f'"event": "{said["event"]}"',
    ]
    more = draw(rest)
    if "null" not in more and draw(st.booleans()):
        said["id"] = draw(names)
        members.append(f'"{draw(st.sampled_from(IDS))}": {json.dumps(said["id"])}')
    if "dt" in more:
        members = [member.replace('"dt"', '"ts"').replace('"userid"', '"userId"') for member in members]
    text = f"{draw(edge)}{{{', '.join(draw(st.permutations(members)))}{more}}}{draw(edge)}"
    return text, said | {"timestamp": said["timestamp"].strip('"')}


BAD: list[tuple[str, Told]] = [
    ('{"timestamp": 1, "user": 7, "event": "click"}', "user"),
    ('{"timestamp": 1.5, "user": ["a"], "event": "click"}', "user"),
    ('{"timestamp": true, "user": "a", "event": "click"}', "timestamp"),
    ('{"timestamp": [1], "user": "a", "event": "click"}', "timestamp"),
    ('{"timestamp": 1, "user": "a", "event": false}', "event"),
    ('{"timestamp": 1, "user": "a", "event": "click", "id": 7}', "id"),
    ('{"timestamp": 1, "user": "a", "event": "click", "messageId": {}}', "id"),
    ('{"timestamp": 1, "user": "\\ud800", "event": "click"}', "user"),
    ("[]", None),
    ("7", None),
    ("null", None),
    ('"click"', None),
    (f"[{WHOLE}]", None),
]
"""JSON that is no event."""
NO_JSON: list[tuple[str, Told]] = [
    ("{", None),
    ("}", None),
    (WHOLE[:-1], None),
    (WHOLE + "x", None),
    (WHOLE + ",", None),
    (WHOLE + "\0", None),
    ('{"timestamp": 01, "user": "a", "event": "click"}', None),
    ('{"timestamp": NaN, "user": "a", "event": "click"}', None),
    ("{'timestamp': 1}", None),
    (f"timestamp=1&user={CANARY}", None),
    (CANARY, None),
    ("\ufeff" + WHOLE, None),
    ('{"timestamp": 1, "p": ' + "[" * 5000 + "]" * 5000 + "}", None),
]

array_lines = st.lists(good_lines() | st.sampled_from(BAD), max_size=8)
ndjson_lines = st.lists(good_lines() | st.sampled_from(BAD + NO_JSON), max_size=8)
ends = st.sampled_from(["\n", "\r\n", "\n\n", "\n \r\n\t\n"])


@patient
@given(lines=ndjson_lines, between=ends, before=st.sampled_from(["", "\n", "\ufeff", " \n"]), last=st.booleans())
def test_every_line_is_read_by_itself(lines: list[tuple[str, Told]], *, between: str, before: str, last: bool) -> None:
    """What a line says does not depend on its neighbours, nor on blank lines, line ends, or a mark at the beginning."""
    text = before + between.join(line for line, _ in lines) + between * last
    if before != "\ufeff" and text.startswith("\ufeff"):
        return  # the mark of a line that is none of the body's

    assert told(read_ndjson(text.encode())) == [said for _, said in lines]


@patient
@given(
    lines=array_lines, between=st.sampled_from([",", " ,\n", "\r\n,\t"]), around=st.sampled_from(["", "\n", "\ufeff"])
)
def test_every_element_is_read_by_itself(lines: list[tuple[str, Told]], between: str, around: str) -> None:
    """So with the elements of an array, as long as it is JSON."""
    text = f"{around}[{between.join(line for line, _ in lines)}]\n"

    assert told(read_json_events(text.encode())) == [said for _, said in lines]


@patient
@given(line=good_lines() | st.sampled_from(BAD))
def test_one_object_is_one_event(line: tuple[str, Told]) -> None:
    if line[0].strip().startswith("["):
        return  # an array

    assert told(read_json_events(line[0].encode())) == [line[1]]


@patient
@given(body=st.binary() | st.text().map(str.encode), is_array=st.booleans())
def test_any_bytes_are_lines_or_malformed(body: bytes, *, is_array: bool) -> None:
    """Nothing but Malformed comes out of what is no list of events."""
    try:
        pieces = list(read_json_events(b"[" * is_array + body))
    except Malformed:
        pieces = []
    pieces += read_ndjson(body)

    assert all(isinstance(line, Line | Malformed) for piece in pieces for line in piece.lines)


# --- where lines end


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", []),
        (b"\n\r\n \n", []),
        (b"\xef\xbb\xbf", []),
        (f"{WHOLE}".encode(), [ADA]),
        (f"{WHOLE}\n".encode(), [ADA]),
        (f"{WHOLE}{WHOLE}\n".encode(), [None]),
        (f"{WHOLE} {WHOLE}\n{WHOLE}\n".encode(), [None, ADA]),
        (f"{WHOLE}\n{WHOLE}{WHOLE}".encode(), [ADA, None]),
        (WHOLE.replace(", ", ",\n", 1).encode(), [None, None]),
        (WHOLE.replace(", ", ",\n", 1).encode() + b"\n", [None, None]),
        (f"{WHOLE}\r{WHOLE}\n".encode(), [None]),
        (b"\n".join((WHOLE.encode(), WHOLE.encode().replace(b"ada", b"\xff"), WHOLE.encode())), [ADA, None, ADA]),
        (b"\n".join((WHOLE.encode(), b"\xff\xfe", WHOLE.encode())), [ADA, None, ADA]),
    ],
    ids=[
        "nothing", "blank", "mark", "no end", "end", "two on a line", "two on the first", "two on the last",
        "one on two lines", "and an end", "mac", "user not UTF-8", "line not UTF-8",
    ],
)  # fmt: skip
def test_a_line_is_one_event(body: bytes, said: list[Told]) -> None:
    """Not two, and not a part of one: else the answer's indexes would mean other lines than the client's."""
    assert told(read_ndjson(body)) == said


@pytest.mark.parametrize("width", [100, 1000, PIECE_BYTES_MAX // 2, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1])
@pytest.mark.parametrize("bad", [None, 0, 3])
def test_lines_of_any_length_come_in_their_order(width: int, bad: int | None) -> None:
    """However a body is taken apart, so that reading it does not hold up the loop."""
    count = max(5, 3 * PIECE_BYTES_MAX // width)
    lines: list[tuple[str, Told]] = []
    for number in range(count):
        line = f'{{"timestamp": {number}.5, "user": "{number}", "event": "click", "p": "'
        line += "x" * (width - len(line) - 3) + '"}'
        lines.append((line, {"timestamp": f"{number}.5", "user": f"{number}", "event": "click"}))
    if bad is not None:
        lines[bad] = ("{", None)

    pieces = list(read_ndjson("\n".join(line for line, _ in lines).encode()))

    assert told(pieces) == [said for _, said in lines]
    assert len(pieces) > 1


@pytest.mark.parametrize("bad", [None, 0, 4500])
def test_many_elements_come_in_their_order(bad: int | None) -> None:
    """An array comes in pieces too, each with the digits of its own."""
    texts = [f'{{"timestamp": {number}.5, "user": "{number}", "event": "click"}}' for number in range(5000)]
    lines: list[Told] = [{"timestamp": f"{n}.5", "user": f"{n}", "event": "click"} for n in range(5000)]
    if bad is not None:
        texts[bad], lines[bad] = "7", None

    pieces = list(read_json_events(f"[{','.join(texts)}]".encode()))

    assert told(pieces) == lines
    assert max(len(piece.lines) for piece in pieces) < 3000


# --- bounds


def test_lines_have_a_bound() -> None:
    """Blank ones included, which would else cost as much as they like."""
    line = WHOLE.encode() + b"\n"

    assert len(told(read_ndjson(line * LINES_MAX))) == LINES_MAX
    for more in (line * LINES_MAX + WHOLE.encode(), b"\n" * LINES_MAX + line, b"x\n" * (LINES_MAX + 1)):
        with pytest.raises(TooLarge):
            read_ndjson(more)


@pytest.mark.parametrize("element", [WHOLE, "7"])
def test_elements_have_a_bound(element: str) -> None:
    assert len(told(read_json_events(f"[{','.join([element] * LINES_MAX)}]".encode()))) == LINES_MAX

    with pytest.raises(TooLarge):
        read_json_events(f"[{','.join([element] * (LINES_MAX + 1))}]".encode())


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (read_json_events, b"[" + b"{}," * 1_000_000 + b"{}]"),
        (read_json_events, b"[" + b"1," * 1_500_000 + b"1]"),
        (read_json_events, f'[{WHOLE},{{"p":[{"{}," * 1_000_000}{{}}]}}]'.encode()),
        (read_json_events, f'[{WHOLE},{{"user":7,"p":[{"0," * 1_500_000}0]}}]'.encode()),
        (read_ndjson, b"{}" * 1_500_000),
        (read_ndjson, b"\n" + WHOLE.encode() * 50_000 + b"\n"),
        (read_ndjson, f'{{"user":7,"p":[{"{}," * 1_000_000}{{}}]}}'.encode()),
        (read_ndjson, f'{WHOLE[:-1]},"p":[{"{}," * 1_000_000}{{}}]}}'.encode()),
    ],
    ids=[
        "many objects", "many numbers", "many objects in one", "many numbers in one that is bad", "many on a line",
        "many events on a line", "many in a line that is bad", "many in a line",
    ],
)  # fmt: skip
def test_a_body_costs_little_more_memory_than_it_has_bytes(
    read: Callable[[bytes], Iterable[Piece]], body: bytes
) -> None:
    """Whatever it holds; 3 MB of {} would be a hundred if each of them were read."""
    tracemalloc.start()
    try:
        with suppress(TooLarge, Malformed):
            assert len(told(read(body))) == 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2.5 * len(body)


def test_a_large_line_spoils_no_other() -> None:
    """It is not said what is wrong with it; what is right is counted."""
    large = f', "p": "{"x" * PIECE_BYTES_MAX}"'
    lines = [WHOLE, WHOLE[:-1] + large + "}", f'{{"user": 7{large}}}', WHOLE + large, WHOLE]

    assert told(read_ndjson("\n".join(lines).encode())) == [ADA, ADA, None, None, ADA]
    assert told(read_json_events(f"[{','.join(lines[:3])}]".encode())) == [ADA, ADA, None]


@pytest.mark.parametrize(
    "body", ["[", f"[{WHOLE}", f"[{WHOLE},]", f"[{WHOLE}{WHOLE}]", f"[{WHOLE}]]", f"[{WHOLE}] {CANARY}"]
)
def test_an_array_that_is_not_json_is_refused_whole(body: str) -> None:
    """There is no telling what its elements are."""
    with pytest.raises(Malformed) as caught:
        read_json_events(body.encode())

    assert CANARY not in str(caught.value)


# --- fields of a form


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([("timestamp", "1"), ("user", "a"), ("event", "click")], {"timestamp": "1", "user": "a", "event": "click"}),
        ([("ts", "1"), ("userId", "a"), ("messageId", "m"), ("x", "y")], {"timestamp": "1", "user": "a", "id": "m"}),
        ([("dt", "1"), ("dt", "1")], "timestamp"),
        ([("dt", "1"), ("timestamp", "1")], "timestamp"),
        ([("user", "a"), ("userid", "a")], "user"),
        ([("id", "a"), ("messageId", "b")], "id"),
        ([("event", "click"), ("event", "click")], "event"),
        ([("user", "\udcff")], "user"),
        ([], {}),
    ],
)
def test_fields_of_a_form_are_an_event(fields: list[tuple[str, Any]], said: Told) -> None:
    """Under any of their names; what is given twice is refused."""
    assert told([Piece([read_fields(fields)])]) == [said]
