"""Lines of a file or a pipe, in parcels for a request each; however much there is, little of it is in memory.

::

    read --> gunzip, if it begins like gzip --> lines --> an id, if asked for --> parcels --> queue of a few

On a thread of its own: a read may block for as long as whoever writes into the pipe likes. A parcel is full, or goes as
soon as nothing more can be read right now, so what trickles in goes out at once. Blank lines are left out, and counted:
line numbers are those of an editor.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

READ_BYTES = 1 << 18
PARCEL_LINES_MAX = 5_000  # some milliseconds of an API node's work; a hundredth of what makes a request dear
PARCEL_BYTES_MAX = 1 << 20  # what proxies let through unasked
LINE_BYTES_MAX = 1 << 20  # no event is as long; whatever it is, it is not kept in memory to the next line feed
PARCELS_WAITING_MAX = 4

_GZIP = b"\x1f\x8b"
_GZIP_FORMAT = 31  # zlib's name for it: the window, and 16 for the header


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Lines that go in one request.

    Attributes:
        numbers: of the lines, from 1.
        lines: without line feeds.
        too_long: numbers of lines that are no events, because they are far too long.
    """

    numbers: Sequence[int]
    lines: Sequence[bytes]
    too_long: Sequence[int] = ()

    def only(self, positions: Iterable[int]) -> Parcel:
        """Some of it."""
        chosen = list(positions)
        return Parcel(numbers=[self.numbers[at] for at in chosen], lines=[self.lines[at] for at in chosen])


class SourceFailed(Exception):
    """The input cannot be read on; says why."""


class _MayHaveId(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    messageId: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - as other systems write it


_decode = msgspec.json.Decoder(_MayHaveId).decode


def has_id(line: bytes) -> bool | None:
    """Whether the event of a line has an id; None if the line is no event."""
    try:
        found = _decode(line)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return bytes(found.id) != b"null" or bytes(found.messageId) != b"null"


def with_id(line: bytes, number: int, name: bytes) -> bytes:
    """The line with an id, if it is an event that has none: the same for the same line, number and name."""
    if has_id(line) is not False:
        return line
    inside = line.rstrip()[:-1]
    if not inside.strip()[1:].strip():
        return line  # an object without a field, which is no event either
    digest = blake2b(b"%d:%b:%b" % (number, name, line), digest_size=12).hexdigest()
    return b'%b,"id":"%b"}' % (inside, digest.encode())


class Lines:
    """Cuts what comes into parcels. Pure.

    Args:
        ids: the name that ids are made of; None: no ids are given.
    """

    def __init__(self, *, ids: bytes | None = None) -> None:
        self._ids = ids
        self._number = 0
        self._rest = b""
        self._skipping = False
        self._numbers: list[int] = []
        self._lines: list[bytes] = []
        self._too_long: list[int] = []
        self._bytes = 0

    def feed(self, content: bytes) -> Iterator[Parcel]:
        """Take in what was read; the parcels that are full."""
        *whole, rest = (self._rest + content).split(b"\n")
        for line in whole:
            if self._skipping:
                self._skipping = False
                continue
            if (parcel := self._add(line)) is not None:
                yield parcel
        if len(rest) > LINE_BYTES_MAX and not self._skipping:
            self._number += 1
            self._too_long.append(self._number)
            self._skipping = True
        self._rest = b"" if self._skipping else rest

    def flush(self) -> Iterator[Parcel]:
        """What is whole, though no parcel is full."""
        if self._numbers or self._too_long:
            yield self._cut()

    def end(self) -> Iterator[Parcel]:
        """There is no more: the last line may have no line feed."""
        if self._rest and not self._skipping and (parcel := self._add(self._rest)) is not None:
            yield parcel
        yield from self.flush()

    def _add(self, line: bytes) -> Parcel | None:
        self._number += 1
        if not line.strip():
            return None
        if len(line) > LINE_BYTES_MAX:
            self._too_long.append(self._number)
            return None
        if self._number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if self._ids is not None:
            line = with_id(line, self._number, self._ids)
        full = self._cut() if self._bytes + len(line) > PARCEL_BYTES_MAX and self._lines else None
        self._numbers.append(self._number)
        self._lines.append(line)
        self._bytes += len(line) + 1
        return full or (self._cut() if len(self._lines) >= PARCEL_LINES_MAX else None)

    def _cut(self) -> Parcel:
        parcel = Parcel(numbers=self._numbers, lines=self._lines, too_long=self._too_long)
        self._numbers, self._lines, self._too_long, self._bytes = [], [], [], 0
        return parcel


class _Plain:
    def unpack(self, content: bytes) -> Iterator[bytes]:
        yield content

    def end(self) -> None:
        """Whatever came is whole."""


class _Gunzip:
    """Several members one after the other are one content, as ``cat a.gz b.gz`` makes them."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_FORMAT)
        self._begun = False

    def unpack(self, content: bytes) -> Iterator[bytes]:
        while content:
            self._begun = True
            yield self._member.decompress(content, READ_BYTES)
            content = self._member.unconsumed_tail
            if self._member.eof:
                content = self._member.unused_data.lstrip(b"\0")  # padding of tapes
                self._member, self._begun = zlib.decompressobj(_GZIP_FORMAT), False

    def end(self) -> None:
        if self._begun:
            message = "it ends in the middle of what was packed"
            raise SourceFailed(message)


class Source:
    """A thread that reads a descriptor to its end.

    Attributes:
        size_bytes: of the file; None if it has none.
        read_bytes: how many were read.
    """

    def __init__(self, *, descriptor: int, ids: bytes | None = None) -> None:
        found = os.fstat(descriptor)
        self.size_bytes = found.st_size if stat.S_ISREG(found.st_mode) else None
        self.read_bytes = 0
        # Our own: the thread may read on for a moment when the caller's is closed.
        self._descriptor = os.dup(descriptor)
        self._lines = Lines(ids=ids)
        self._stopped = False
        self._queue: asyncio.Queue[Parcel | SourceFailed | None] = asyncio.Queue(PARCELS_WAITING_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to read; inside a running loop."""
        self._loop = asyncio.get_running_loop()
        # A daemon: nothing wakes a thread that waits for somebody to type.
        threading.Thread(target=self._run, name="source", daemon=True).start()

    def stop(self) -> None:
        """Read no further."""
        self._stopped = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def get(self) -> Parcel | None:
        """The next parcel; None at the end, again and again.

        Raises:
            SourceFailed: it cannot be read on.
        """
        found = await self._queue.get()
        if isinstance(found, Parcel):
            return found
        self._queue.put_nowait(None)  # for the others who wait
        if found is not None:
            raise found
        return None

    # From here on: the thread.

    def _run(self) -> None:
        failure: SourceFailed | None = None
        try:
            for parcel in self._parcels():
                if self._stopped or not self._hand_over(parcel):
                    return
        except SourceFailed as error:
            failure = error
        except (OSError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is damaged"
            failure = SourceFailed(str(reason))
        finally:
            os.close(self._descriptor)
        self._hand_over(failure)

    def _hand_over(self, found: Parcel | SourceFailed | None) -> bool:
        """Wait for room: what is read stays on disk, or with whoever writes into the pipe.

        Returns:
            False if the loop is gone, and whoever wanted this with it.
        """
        assert self._loop is not None  # noqa: S101 - it was started
        putting = self._queue.put(found)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, CancelledError):
            putting.close()
            return False
        return True

    def _parcels(self) -> Iterator[Parcel]:
        unpacker: _Plain | _Gunzip | None = None
        while content := os.read(self._descriptor, READ_BYTES):
            self.read_bytes += len(content)
            if unpacker is None:
                unpacker = _Gunzip() if content.startswith(_GZIP) else _Plain()
            for piece in unpacker.unpack(content):
                yield from self._lines.feed(piece)
            if not self._more_at_once():
                yield from self._lines.flush()
        if unpacker is not None:
            unpacker.end()
        yield from self._lines.end()

    def _more_at_once(self) -> bool:
        if self.size_bytes is not None:
            return True
        return bool(select.select([self._descriptor], [], [], 0)[0])
