"""A node calls its streams by its own name, so that a restarted one goes on in a stream that is not new."""

from __future__ import annotations

from dataclasses import replace

from common.wire import STREAM_BYTES
from tests.simulation.parts import SHIPPED


def _of_node(node: str, _drawn: int) -> bytes:
    return node.encode().ljust(STREAM_BYTES)


PARTS = replace(SHIPPED, new_stream=_of_node)
