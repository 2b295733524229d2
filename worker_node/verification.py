"""Verifies suspect slice files in the background, while all other slices serve: one after the other, each in a process.

In a process, because it is a second of computing per million users; one at a time, because a node has work to do. The
newest slices come first: they are what is written and asked for. Which files are suspect, and why: ``write_list.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

from worker_node.verify_file import DAMAGED, SOUND

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from common.logs import Log
    from common.slices import SliceId
    from worker_node.writer import Writer

AGAIN_SECONDS = 10.0  # after a verification that could not be done: something else is wrong with the machine


async def verify_in_process(path: Path) -> tuple[int, str]:
    """Run ``verify_file`` on a file; its exit code, and what it said. Cancelled, it is ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker_node.verify_file", str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return await process.wait(), said.decode(errors="replace")


class Verification:
    """Verifies what the writer does not trust."""

    def __init__(
        self,
        *,
        writer: Writer,
        log: Log,
        verify: Callable[[Path], Awaitable[tuple[int, str]]] = verify_in_process,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._writer = writer
        self._log = log
        self._verify = verify
        self._again_seconds = again_seconds

    async def run(self) -> None:
        """Verify until there is nothing left to verify."""
        suspects = self._writer.suspects
        if suspects:
            self._log.warning("verification_begins", slices=len(suspects))
        while suspects := self._writer.suspects:
            await self._verify_one(max(suspects))

    async def _verify_one(self, slice_id: SliceId) -> None:
        code, said = await self._verify(self._writer.path(slice_id))
        if code == SOUND:
            await self._writer.verified(slice_id, problem=None)
            self._log.info("slice_verified", slice=slice_id)
        elif code == DAMAGED:
            await self._writer.verified(slice_id, problem=said.partition("\n")[0])
        else:
            self._log.error("verification_failed", slice=slice_id, code=code)
            await asyncio.sleep(self._again_seconds)
