"""A stream drains from the spool under a new name, which is on no disk."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from api_node.drain import Drain
from common.wire import STREAM_BYTES
from tests.simulation.parts import SHIPPED


class Renames(Drain):
    """What was sent before it was spooled, or before the node died, is sent again under another name."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._senders[0].stream = os.urandom(STREAM_BYTES)

    @property
    def streams(self) -> set[bytes]:
        """What is drained here."""
        return super().streams | {self._source.stream}


PARTS = replace(SHIPPED, drain=Renames)
