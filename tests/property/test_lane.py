"""What the fast lane takes for plain is read by aiohttp's parser as the same one request, and nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from common.lane import PLAIN_BYTES_MAX, Head, read_head, split_head

PLAIN = b"GET /analytics?user=ada HTTP/1.1\r\nHost: x\r\n"


class _Loop:
    """Of a loop, the parser only wants to know that there is one."""


def parsed(data: bytes) -> Sequence[Any] | None:
    """The messages that aiohttp reads; None if it is no HTTP."""
    loop: Any = _Loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 16, max_line_size=8190, max_field_size=8190)
    try:
        messages, upgraded, tail = parser.feed_data(data)
    except HttpProcessingError:
        return None
    assert not upgraded
    assert not tail
    return list(messages)


def mostly(usual: Sequence[str], *odd: str) -> st.SearchStrategy[str]:
    """One of the usual, now and then something odd: so that several parts together are often all right."""
    return st.integers(0, 9).flatmap(lambda at: st.sampled_from(odd if at == 0 else usual))


names = mostly(
    ["Accept", "Authorization", "Cookie", "User-Agent", "X-Any", "X-Forwarded-For"],
    "Host", "host", "Connection", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "TE", "X Y", "", "Ho\tst",
    "ä",
)  # fmt: skip
values = mostly(
    ["x", "0", "a b", "keep-alive", "*/*"],
    "", "close", "keep-alive, upgrade", "00", "+0", "1", "chunked", "identity", "a\tb", " a", "a ", "100-continue",
    "websocket", "é", "a\rb", "a\nb", "a\x00b",
) | st.text(max_size=5)  # fmt: skip
separators = mostly([": ", ":"], ":  ", " : ", ":\t", "")
line_ends = mostly(["\r\n"], "\n", "\r", "\r\n ", "\r\n\r\n")
headers = st.lists(st.tuples(names, separators, values, line_ends).map("".join), max_size=3).map("".join)
targets = mostly(
    ["/analytics", "/analytics?", "/analytics?user=ada", "/analytics?user=ada&click&event=%20"],
    "/analytics?a b", "/analytics?a#b", "/analytics?\x7f", "/analytics?a\tb", "/analytics?é", "/analytics?a HTTP/1.1",
    "http://x/analytics",
) | st.text(max_size=8).map("/analytics?".__add__)  # fmt: skip
versions = mostly([" HTTP/1.1\r\n"], " HTTP/1.0\r\n", " HTTP/1.1\n", "  HTTP/1.1\r\n", "\tHTTP/1.1\r\n", "\r\n")
hosts = mostly(["Host: x\r\n"], "", "Host: x\r\nHost: y\r\n")
ends = mostly(["\r\n"], "", "\n", "\r\nGET /", "\r\n\r\n", "\r\nx")
methods = mostly(["GET", "POST"], "get", "\r\nGET", " GET", "G ET")


@settings(max_examples=1000)
@given(
    st.builds(
        lambda *parts: "".join(parts).encode(errors="replace"),
        methods, st.just(" "), targets, versions, hosts, headers, ends,
    )
)  # fmt: skip
@example(PLAIN + b"\r\n")
@example(PLAIN + b"Content-Length: 0\r\n\r\n")
@example(PLAIN + b"X: POST /analytics HTTP/1.1\r\n\r\n")
def test_plain_is_one_whole_request_without_a_body(data: bytes) -> None:
    """With the same call, query and headers, and a connection that goes on."""
    parts = split_head(data)
    head = None if parts is None else read_head(parts[2])
    if parts is None or head is None or parts[0] not in (b"GET /analytics", b"POST /analytics"):
        event("not plain")
        return
    event("plain")
    found = parsed(data)

    assert found is not None
    [(message, payload)] = found
    path, _, query = message.path.partition("?")
    assert (f"{message.method} {path}".encode(), query) == parts[:2]
    assert payload.is_eof()
    assert not any((message.should_close, message.upgrade, message.chunked, message.compression))
    assert head == Head(
        accept=message.headers.get("Accept", ""),
        authorization=message.headers.get("Authorization"),
        forwarded_for=message.headers.get("X-Forwarded-For"),
    )
    assert "Expect" not in message.headers


@pytest.mark.parametrize(
    "more",
    [
        b"Host: y\r\n", b"Connection: close\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n", b"Origin: http://y\r\n", b"X-Request-Id: a\r\n",
        b"A: b\r\n\r\n", b"A: b\n", b"A : b\r\n", b" A: b\r\n", b"A: b\r\n c\r\n", b"A\r\n", b"A: \xff\r\n",
        b"A: b\0\r\n",
    ],
)  # fmt: skip
def test_what_may_change_the_message_is_not_plain(more: bytes) -> None:
    """Or the connection, or what is to be answered."""
    parts = split_head(PLAIN + more + b"\r\n")

    assert parts is None or read_head(parts[2]) is None


@pytest.mark.parametrize("data", [b"", PLAIN, PLAIN[:-1], PLAIN + b"\r", PLAIN.replace(b"Host: x\r\n", b"\r\n")])
def test_what_is_not_whole_is_not_plain(data: bytes) -> None:
    parts = split_head(data)

    assert parts is None or read_head(parts[2]) is None


def test_a_long_request_is_not_plain() -> None:
    """It has bounds of its own to be told of."""
    fits = PLAIN + b"A: " + b"x" * (PLAIN_BYTES_MAX - len(PLAIN) - 7) + b"\r\n\r\n"

    assert split_head(fits) is not None
    assert split_head(fits.replace(b"ada", b"ada1")) is None
