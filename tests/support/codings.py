"""Compressed bodies, as a client makes them."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd.compress,
}
"""Content-Encoding -> how it is made."""


def zstd_stream(content: bytes, *, window_log: int) -> bytes:
    """One frame whose length nobody knew beforehand, so that it says how far it looks back."""
    maker = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
    return maker.compress(content) + maker.flush()


def zstd_skippable(content: bytes) -> bytes:
    """A frame that holds no content, as the tools write their tables of frames."""
    return b"\x50\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
