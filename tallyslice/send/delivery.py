"""Parcels to API nodes, several at a time, each line until it is counted, refused for good, or given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING

import aiohttp

from api_node.peer import why_silent
from common.errors import InputOutputFailed
from tallyslice.questions import detail_of, not_permitted
from tallyslice.send.fates import UNKNOWN, Fates, Refusal, all_of, fates_of
from tallyslice.send.source import LINE_BYTES_MAX, Parcel, has_id

if TYPE_CHECKING:
    from tallyslice.send.record import Record
    from tallyslice.send.source import Source
    from tallyslice.target import Target

CONNECTIONS = 4  # enough to keep a node busy while answers travel; each holds a parcel
REQUEST_SECONDS = 60.0  # a node answers within 13; the rest is for a slow line
PAUSE_FIRST_SECONDS, PAUSE_MOST_SECONDS = 0.2, 10.0
NDJSON = "application/x-ndjson"

_NOT_OURS = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class Delivery:
    """Sends what a source has.

    Args:
        session: carries the requests; not closed here.
        target: the API nodes, asked in turn.
        record: told what became of each line.
        give_up_seconds: how long a parcel is tried without that any of it is taken.
    """

    def __init__(
        self, *, session: aiohttp.ClientSession, target: Target, record: Record, give_up_seconds: float
    ) -> None:
        self._session = session
        self._nodes = list(target.api_nodes.values())
        self._headers = {**target.headers, "Content-Type": NDJSON, "Accept": "application/json"}
        self._record = record
        self._give_up_seconds = give_up_seconds
        self._turn = count()

    async def run(self, source: Source) -> None:
        """Deliver all that the source has.

        Raises:
            SourceFailed: it cannot be read on; what was read before is delivered.
            InputOutputFailed: what answers is no API node.
            NotPermitted: the API nodes want a token, or another one.
        """
        tasks = [asyncio.create_task(self._keep_on(source), name=f"delivery {n}") for n in range(CONNECTIONS)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_on(self, source: Source) -> None:
        while (parcel := await source.get()) is not None:
            await self.deliver(parcel)
            if self._record.gave_up:
                source.stop()

    async def deliver(self, parcel: Parcel) -> None:
        """Deliver one parcel."""
        for number in parcel.too_long:
            self._record.lost(number, _TOO_LONG)
        if parcel.lines:
            await self._deliver(parcel)

    async def _deliver(self, parcel: Parcel) -> None:
        loop = asyncio.get_running_loop()
        pause, until = PAUSE_FIRST_SECONDS, loop.time() + self._give_up_seconds
        while True:
            fates, wait_seconds = await self._post(parcel)
            if fates.too_large:
                half = len(parcel.lines) // 2
                await self._deliver(parcel.only(range(half)))
                await self._deliver(parcel.only(range(half, len(parcel.lines))))
                return
            again = [refusal for refusal in fates.refusals if refusal.again]
            self._settle(parcel, fates, again)
            if not again:
                self._record.trouble = ""
                return
            if len(again) < len(parcel.lines):  # some were taken: it goes on
                pause, until = PAUSE_FIRST_SECONDS, loop.time() + self._give_up_seconds
            if loop.time() + max(pause, wait_seconds) > until:
                self._record.gave_up = True
                for refusal in again:
                    self._record.lost(parcel.numbers[refusal.position], refusal)
                return
            self._record.trouble = again[0].detail
            # Jitter, so that those who were turned away together do not come back together.
            await asyncio.sleep(max(wait_seconds, pause * random.uniform(0.5, 1)))
            pause = min(pause * 2, PAUSE_MOST_SECONDS)
            self._record.resent += len(again)
            parcel = parcel.only(refusal.position for refusal in again)

    def _settle(self, parcel: Parcel, fates: Fates, again: Iterable[Refusal]) -> None:
        """Record the lines that are not going to be sent again."""
        self._record.took(len(parcel.lines) - len(fates.refusals), repeated=fates.repeated)
        going = {refusal.position for refusal in again}
        for refusal in fates.refusals:
            if refusal.position not in going:
                self._record.lost(parcel.numbers[refusal.position], refusal)

    async def _post(self, parcel: Parcel) -> tuple[Fates, float]:
        """What became of the lines of one request, and how long to wait before the next one."""
        url = f"{self._nodes[next(self._turn) % len(self._nodes)]}/events"
        lines = len(parcel.lines)

        def has_one(position: int) -> bool:
            return has_id(parcel.lines[position]) is True

        try:
            async with self._session.post(
                url,
                data=b"\n".join(parcel.lines),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
                allow_redirects=False,
            ) as response:
                body = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except aiohttp.ClientConnectorError as error:
            return all_of(lines, "not-taken", f"{url}: {why_silent(error)}", again=lambda _: True), 0
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return all_of(lines, UNKNOWN, f"{url}: {why_silent(error)}", again=has_one), 0
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise not_permitted(url, status, detail_of(body))
        if status in _NOT_OURS or HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            raise InputOutputFailed(f"{url} answers with status {status}: this is no API node of Tallyslice")
        wait_seconds = float(retry_after) if retry_after.isdecimal() else 0.0
        return fates_of(status, body, lines, has_id=has_one), wait_seconds


_TOO_LONG = Refusal(position=0, slug="too-large", detail=f"is longer than {LINE_BYTES_MAX:,} bytes")
