"""Forms in parts: each field as it was sent, or the whole form is refused, and nothing of it is quoted."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import FormData, MultipartWriter, payload
from aiohttp.abc import AbstractStreamWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Malformed
from common.events import FIELDS_MAX, Field
from common.multipart import read_multipart
from tests.support.events import CANARY
from tests.support.forms import BOUNDARY, TYPE, form, named, part

EVENT = [("timestamp", "1495242000"), ("user", "ada"), ("click", "")]
WHOLE = form(*(named(name, value) for name, value in EVENT))

patient = settings(deadline=None)  # of a machine that does other things too

texts = st.text(max_size=30)
# No backslash: which of them escapes something depends on the client. No percent sign: aiohttp does not escape it. No
# control characters: it does not send them.
names = st.text(st.characters(codec="utf-8", exclude_characters='\\"%', exclude_categories=["Cs", "Cc"]), max_size=20)
fields_ = st.lists(st.tuples(names, texts), max_size=10)


class Written(AbstractStreamWriter):
    """What a client would have sent."""

    def __init__(self) -> None:
        self.body = b""

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.body += chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.body += chunk

    async def drain(self) -> None:
        pass

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError

    def enable_chunking(self) -> None:
        raise NotImplementedError

    async def write_headers(self, status_line: str, headers: object) -> None:
        raise NotImplementedError


def sent(body: payload.Payload) -> tuple[bytes, str]:
    """Body and Content-Type of a request of aiohttp's client."""
    written = Written()
    asyncio.run(body.write(written))
    return written.body, body.headers["Content-Type"]


def refused(body: bytes, content_type: str = TYPE) -> str:
    """Why a form is refused; nothing of it is quoted."""
    with pytest.raises(Malformed) as caught:
        read_multipart(body, content_type)
    error = caught.value
    assert CANARY not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    return error.detail


# --- whatever is sent


@patient
@given(fields=fields_)
def test_what_aiohttp_sends_is_read(fields: list[Field]) -> None:
    """Any fields that aiohttp's client writes as a form are read as they were, in their order, repeats included."""
    data = FormData(quote_fields=False, default_to_multipart=True)
    for name, value in fields:
        data.add_field(name, value)
    if not fields:  # of which it makes no form
        return

    assert read_multipart(*sent(data())) == fields


@patient
@given(fields=fields_, boundary=st.from_regex(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", fullmatch=True))
def test_any_boundary_will_do(fields: list[Field], boundary: str) -> None:
    """So are the parts of its multipart writer, of any type, behind any boundary that RFC 2046 allows."""
    if any(f"\r\n--{boundary}" in f"\r\n{value}" for _, value in fields):
        return  # no boundary of this form
    with MultipartWriter("form-data", boundary=boundary) as writer:
        for name, value in fields:
            one = writer.append(value.encode(), {"Content-Type": "text/plain; charset=UTF-8"})
            one.set_content_disposition("form-data", quote_fields=False, name=name)

    assert read_multipart(*sent(writer)) == fields


@patient
@given(body=st.binary(), content_type=st.text() | st.just(TYPE))
def test_any_bytes_are_fields_or_malformed(body: bytes, content_type: str) -> None:
    """Nothing but Malformed comes out of what is no form."""
    try:
        read_multipart(body, content_type)
    except Malformed:
        return
    assert body.endswith((b"--", b"--\r\n"))


PIECES = [
    f"--{BOUNDARY}", "--", "\r\n", "\n", "\r", ";", ":", '"', "=", " ", "\\", "%22", "name", "filename", "filename*",
    "Content-Disposition", "form-data", "Content-Type", "Content-Length", "Content-Transfer-Encoding", "text/plain",
    "charset", "utf-16", "base64", "7", "x", "\0", "ü",
]  # fmt: skip


@patient
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40), begun=st.integers(0, len(WHOLE)), ended=st.booleans())
def test_what_looks_like_a_form_is_fields_or_malformed(pieces: list[str], *, begun: int, ended: bool) -> None:
    """So with bytes that are made of what forms are made of."""
    body = WHOLE[:begun] + "".join(pieces).encode() + f"\r\n--{BOUNDARY}--\r\n".encode() * ended

    try:
        fields = read_multipart(body, TYPE)
    except Malformed:
        return
    assert len(fields) == (b"\r\n" + body).count(b"\r\n--" + BOUNDARY.encode() + b"\r\n")


@patient
@given(at=st.integers(0, len(WHOLE) - 3))
def test_no_part_of_a_form_passes_for_it(at: int) -> None:
    """A form that was cut anywhere is malformed, though its fields may all be there."""
    refused(WHOLE[:at])


# --- what is read


def test_a_form_is_its_fields() -> None:
    assert read_multipart(WHOLE, TYPE) == EVENT


def test_the_last_line_may_end_or_not() -> None:
    """Some clients send no line break behind the last boundary."""
    assert read_multipart(WHOLE.removesuffix(b"\r\n"), TYPE) == EVENT


def test_a_field_given_twice_is_there_twice() -> None:
    """So that what reads the event can refuse it."""
    assert read_multipart(form(named("user", "a"), named("user", "b")), TYPE) == [("user", "a"), ("user", "b")]


def test_a_form_without_parts_has_no_fields() -> None:
    assert read_multipart(form(), TYPE) == []


def test_a_value_is_kept_byte_for_byte() -> None:
    """Line breaks, spaces, what looks like a header or nearly like the boundary: nothing is trimmed or normalised."""
    value = f" a\r\n\r\nb\n\r\n-{BOUNDARY}\r\nContent-Disposition: form-data\r\n --{BOUNDARY}--\r\n"

    assert read_multipart(form(named("user", value)), TYPE) == [("user", value)]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ('form-data; name="user"', "user"),
        ("form-data; name=user", "user"),
        ('Form-Data ;  NAME="user"', "user"),
        ('form-data; other=x; name="user"', "user"),
        ('form-data; name="a%22b%0D%0Ac%d"', 'a"b\r\nc%d'),
        ('form-data; name="größe; name=x"', "größe; name=x"),
    ],
)
def test_names_are_read_as_browsers_write_them(head: str, name: str) -> None:
    """And as curl does; what is in quotes is text."""
    assert read_multipart(form(part("1", f"content-disposition: {head}")), TYPE) == [(name, "1")]


@pytest.mark.parametrize(
    "head",
    [
        "Content-Type: text/plain",
        "Content-Type: text/plain; charset=utf-8",
        'content-type: text/plain;charset="UTF-8"',
        "Content-Transfer-Encoding: 8bit",
        "Content-Length: 3",
        "X-Other: whatever",
    ],
)
def test_a_part_may_say_more_of_itself(head: str) -> None:
    assert read_multipart(form(named("user", "ada", head)), TYPE) == [("user", "ada")]


@pytest.mark.parametrize(
    "content_type",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data;charset=utf-8;BOUNDARY={BOUNDARY}",
    ],
)
def test_the_boundary_may_be_quoted(content_type: str) -> None:
    assert read_multipart(WHOLE, content_type) == EVENT


# --- what is refused

NAMED_HEAD = f'Content-Disposition: form-data; name="{CANARY}"'


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        f"multipart/form-data; boundary={BOUNDARY}; boundary={BOUNDARY}",
        f"multipart/form-data; boundary={BOUNDARY}; boundary=other",
        f"multipart/form-data; boundary={BOUNDARY} {CANARY}",
        f'multipart/form-data; boundary="{BOUNDARY}',
        f"multipart/form-data; boundary={BOUNDARY};",
        f"multipart/form-data; boundary*=utf-8''{BOUNDARY}",
        f"multipart/form-data; boundary={'x' * 71}",
        'multipart/form-data; boundary="a\nb"',
        'multipart/form-data; boundary="ends with a space "',
        'multipart/form-data; boundary="größe"',
        f"multipart/form-data; boundary={BOUNDARY}; charset=iso-8859-1",
        f"multipart/mixed; boundary={BOUNDARY}",
        f"{CANARY}; boundary={BOUNDARY}",
        "",
    ],
)
def test_a_boundary_that_is_missing_or_odd_is_refused(content_type: str) -> None:
    refused(WHOLE, content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        WHOLE.replace(BOUNDARY.encode(), b"another-end"),
        b"\r\n" + WHOLE,
        CANARY.encode() + b"\r\n" + WHOLE,
        WHOLE + CANARY.encode(),
        WHOLE + b"\r\n",
        WHOLE + WHOLE,
        WHOLE.removesuffix(b"\r\n") + b"\n",
        form() + WHOLE,
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"\r\n", b"\r"),
        WHOLE.replace(f"--{BOUNDARY}\r\n".encode(), f"--{BOUNDARY} \r\n".encode()),
    ],
    ids=[
        "empty", "another boundary", "line before", "text before", "text behind", "line behind", "twice",
        "half a line end", "an empty one before", "unix lines", "mac lines", "padded",
    ],
)  # fmt: skip
def test_a_form_has_nothing_before_or_behind_it(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (part(CANARY, f'{NAMED_HEAD}; filename="{CANARY}"'), "file"),
        (part(CANARY, f'{NAMED_HEAD}; filename=""'), "file"),
        (part(CANARY, f"{NAMED_HEAD}; filename={CANARY}"), "file"),
        (part(CANARY, f"{NAMED_HEAD}; FileName*=utf-8''{CANARY}"), "file"),
        (part(CANARY, NAMED_HEAD, "Content-Transfer-Encoding: base64"), "encoded"),
        (part(CANARY, NAMED_HEAD, "Content-Transfer-Encoding: quoted-printable"), "encoded"),
        (part(CANARY, NAMED_HEAD, "Content-Encoding: gzip"), "encoded"),
        (part(CANARY, NAMED_HEAD, "Content-Type: text/plain; charset=iso-8859-1"), "not UTF-8"),
        (part(CANARY, NAMED_HEAD, f"Content-Type: text/plain; {CANARY}"), "cannot be read"),
        (part(CANARY, NAMED_HEAD, NAMED_HEAD), "twice"),
        (part(CANARY, NAMED_HEAD, "Content-Type: text/plain", "Content-Type: text/plain"), "twice"),
        (part(CANARY, "Content-Disposition: form-data"), "whole"),
        (part(CANARY, f'Content-Disposition: form-data; names="{CANARY}"'), "whole"),
        (part(CANARY, f'Content-Disposition: attachment; name="{CANARY}"'), "whole"),
        (part(CANARY, f"{NAMED_HEAD}; name=x"), "name="),
        (part(CANARY, f"{NAMED_HEAD}; name*=utf-8''x"), "name="),
        (part(CANARY, f"{NAMED_HEAD} {CANARY}"), "name="),
        (part(CANARY, f'Content-Disposition: form-data; name="{CANARY}\\"b"'), "name="),
        (part(CANARY, f'Content-Disposition: form-data; name="{CANARY}\\b"'), "name="),
        (part(CANARY), "whole"),
        (part(CANARY, CANARY), "whole"),
        (part(CANARY, NAMED_HEAD, f" {CANARY}"), "whole"),
        (part(CANARY, NAMED_HEAD, f"Content-Length: {len(CANARY) + 1}"), "whole"),
        (part(CANARY, NAMED_HEAD, f"Content-Length: {CANARY}"), "whole"),
        (part(CANARY, NAMED_HEAD, f"--{BOUNDARY}--: x"), "begin and end"),
        (part(CANARY, NAMED_HEAD, *[f"X: {CANARY}"] * 20), "whole"),
        (part(CANARY, NAMED_HEAD, f"X: {CANARY * 1000}"), "whole"),
        (part(CANARY.encode() + b"\xff", NAMED_HEAD), "not UTF-8"),
        (part(CANARY.encode() + b"\xed\xa0\x80", NAMED_HEAD), "not UTF-8"),
        (part(CANARY, b'Content-Disposition: form-data; name="\xff"'), "whole"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_plainly_a_field_is_refused(one: bytes, reason: str) -> None:
    """With the form that it is in, whatever its other parts are."""
    assert reason in refused(form(named("timestamp", "1"), one, named("click", "")))


def test_fields_have_a_bound() -> None:
    parts = [named("x", CANARY)] * FIELDS_MAX

    assert len(read_multipart(form(*parts), TYPE)) == FIELDS_MAX
    assert f"more than {FIELDS_MAX} fields" in refused(form(*parts, named("y", CANARY)))
