"""Forms in parts, as a client makes them."""

from __future__ import annotations

from collections.abc import Iterable

BOUNDARY = "an-end"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(value: bytes | str, *heads: bytes | str) -> bytes:
    """One part, with its boundary before it."""
    return b"\r\n".join([f"--{BOUNDARY}".encode(), *map(_bytes, heads), b"", _bytes(value), b""])


def named(name: str, value: bytes | str, *heads: bytes | str) -> bytes:
    """One field."""
    return part(value, f'Content-Disposition: form-data; name="{name}"', *heads)


def form(*parts: bytes) -> bytes:
    """All of it."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form_of(fields: Iterable[tuple[str, str]]) -> bytes:
    """A form of some fields."""
    return form(*(named(name, value) for name, value in fields))


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text
