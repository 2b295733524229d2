"""A viewer of the dashboard without a browser."""

from __future__ import annotations

import json
from typing import Any, Self

import aiohttp


class LiveStream:
    """An async context manager: reads ``/live`` of a node, snapshot by snapshot."""

    def __init__(self, base: str, *, last_id: str | None = None) -> None:
        self._url = f"{base}/live"
        self._headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._session: aiohttp.ClientSession | None = None
        self._answer: aiohttp.ClientResponse | None = None
        self.fields: dict[str, str] = {}  # of the last event

    @property
    def answer(self) -> aiohttp.ClientResponse:
        """The head of the answer."""
        assert self._answer is not None
        return self._answer

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        timeout = aiohttp.ClientTimeout(total=None, sock_read=20)
        self._answer = await self._session.get(self._url, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        self.answer.close()
        await self._session.close()

    async def event(self) -> dict[str, str] | None:
        """The fields of the next event; None at the end."""
        fields: dict[str, str] = {}
        while line := await self.answer.content.readline():
            if line == b"\n":
                self.fields = fields
                return fields
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
        return None

    async def snapshot(self) -> dict[str, Any]:
        """The next snapshot."""
        fields = await self.event()
        assert fields is not None
        assert "event" not in fields
        found: dict[str, Any] = json.loads(fields["data"])
        return found
