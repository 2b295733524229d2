"""The tokens file is followed while the node runs, as the cluster file is: a bad one leaves the known tokens in place.

::

    it may have changed (file_watch.py) --> read -> other bytes? -> parse --+--> publish
                                                                            +--> refusal
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from common.cluster_watch import Refusal
from common.config import version_of
from common.errors import ConfigRefused
from common.file_watch import FileWatch
from common.logs import Log
from common.slices import Micros
from common.tokens import Tokens, parse_tokens, read_tokens


class TokenWatch:
    """An async context manager that keeps the known tokens.

    Args:
        path: of the file; None: there is none.
        tokens: what is known of it.
        publish: hands a file's tokens over when it has changed for the better.
        every: the file is read at least that often, in seconds.
        log: where changes and refusals are told.
        now: the clock.

    Attributes:
        refusal: why the file as it is now is not used; None if it is.
        refusals: how many there were.
    """

    def __init__(
        self,
        *,
        publish: Callable[[Path, Tokens], None],
        path: Path | None,
        tokens: Tokens | None,
        every: Callable[[], float],
        log: Log,
        now: Callable[[], Micros],
    ) -> None:
        self.tokens = tokens
        self.refusal: Refusal | None = None
        self.refusals = 0
        self._publish = publish
        self._every = every
        self._log = log
        self._now = now
        self._path = path
        self._file_watch: FileWatch | None = None
        # The version of the refused bytes (None: unreadable) and the reasons: the same refusal is told once.
        self._told: tuple[str | None, tuple[str, ...]] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop watching."""
        await self._leave()

    async def follow(self, path: Path | None, tokens: Tokens | None) -> None:
        """Watch this file from now on, of which this is known; or none."""
        await self._leave()
        self.tokens, self._path = tokens, path
        self.refusal = self._told = None
        await self._enter()

    async def _enter(self) -> None:
        if self._path is not None:
            self._file_watch = FileWatch(path=self._path, look=self._look, every=self._every, log=self._log)
            await self._file_watch.__aenter__()

    async def _leave(self) -> None:
        watch, self._file_watch = self._file_watch, None
        if watch is not None:
            await watch.__aexit__(None, None, None)

    async def _look(self) -> None:
        path, known = self._path, self.tokens
        if path is None:
            return
        version: str | None = None
        try:
            content = await asyncio.to_thread(read_tokens, path)
            version = version_of(content)
            if known is not None and version == known.version:
                tell = self._log.debug if self.refusal is None else self._log.info
                tell("tokens_file_as_running", version=version)
                self.refusal = self._told = None
                return
            tokens = parse_tokens(content)
        except ConfigRefused as error:
            self._refuse(version, tuple(error.problems))
            return
        self._publish(path, tokens)
        self.tokens = tokens
        self.refusal = self._told = None
        self._log.info("tokens_file_accepted", version=version, tokens=len(tokens.by_digest))

    def _refuse(self, version: str | None, reasons: tuple[str, ...]) -> None:
        if self._told == (version, reasons):
            return
        self._told = version, reasons
        self.refusal = Refusal(reasons=reasons, at=self._now())
        self.refusals += 1
        self._log.warning("tokens_file_refused", version=version, reasons=reasons)
