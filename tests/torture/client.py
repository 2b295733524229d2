"""A client that tells apart what counts here: never sent, refused at the door, acknowledged (and how), or unknown."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from tests.support.events import Post

ATTEMPT_SECONDS = 30.0  # beyond every deadline of a node


class Fate(Enum):
    """What is known of an attempt."""

    ACKNOWLEDGED = "acknowledged"
    NOT_TAKEN = "not taken"  # refused at the door, or never sent: not counted, nor ever will be
    UNKNOWN = "unknown"
    REFUSED = "refused"  # an answer that these events should never get


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        fate: what is known of it.
        durability: with success, where the event is: ``worker`` or ``spool``.
        text: the answer, where it says more.
    """

    fate: Fate
    durability: str = ""
    text: str = ""


class Line:
    """One kept-alive connection to an API node at a port; made again when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(self, post: Post) -> Attempt:
        """One attempt to post an event; never raises what a network may do."""
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return Attempt(Fate.NOT_TAKEN, text="nobody listens")
        done = False
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                attempt = await self._ask(*self._streams, post)
            done = True
        except (OSError, asyncio.IncompleteReadError) as error:
            return Attempt(Fate.UNKNOWN, text=type(error).__name__)
        finally:
            # Also when this task is cancelled: an answer that nobody read must not be taken for the next one's.
            if not done:
                self.close()
        return attempt

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, post: Post) -> Attempt:
        writer.write(f"POST /analytics?{post.query} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode())
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[9:12])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = (await reader.readexactly(int(fields.get("content-length", 0)))).decode()
        if fields.get("connection", "").lower() == "close":
            self.close()
        if status in (202, 204):
            return Attempt(Fate.ACKNOWLEDGED, durability=fields.get("x-durability", ""))
        if status != 503:
            return Attempt(Fate.REFUSED, text=f"{status}: {body}")
        kind = json.loads(body)["type"].rpartition(":")[2]
        fate = {"not-taken": Fate.NOT_TAKEN, "outcome-unknown": Fate.UNKNOWN}.get(kind, Fate.REFUSED)
        return Attempt(fate, text=body)
