"""``commit-failed``: how a worker that ends because of its disk leaves word to the next one.

The file is made, with its bytes allocated, while all is well, and kept open: the word is written over them in place,
which needs no space, no new descriptor and no memory worth speaking of. It is a best effort; what depends on it is told
in ``write_list.py``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common.errors import InputOutputFailed
from common.lmdb_file import sync_folder

if TYPE_CHECKING:
    from types import TracebackType

FILE_NAME = "commit-failed"
_CLEAR, _SET = b"no \n", b"yes\n"  # of one length


class FailureMark:
    """A context manager: the file is open from its entry to its exit. ``set`` may be called by any thread.

    Attributes:
        is_set: whether the last worker here, or this one, could not commit something.
    """

    def __init__(self, *, folder: Path) -> None:
        self.is_set = False
        self._path = folder / FILE_NAME
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Open the file, or make it.

        Raises:
            InputOutputFailed: the file system refuses.
        """
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            if not (found := os.pread(self._descriptor, len(_SET), 0)):
                self._write(_CLEAR)
                sync_folder(self._path.parent)
        except OSError as error:
            self._release()
            raise InputOutputFailed(f"{self._path} cannot be used: {error.strerror}") from error
        self.is_set = found == _SET
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self._release()

    def set(self) -> None:
        """Leave word. What the disk refuses even now goes unsaid."""
        self.is_set = True
        with contextlib.suppress(OSError):
            self._write(_SET)

    def clear(self) -> None:
        """All that may have been harmed was looked at."""
        if self.is_set:
            self._write(_CLEAR)
            self.is_set = False

    def _write(self, word: bytes) -> None:
        os.pwrite(self._descriptor, word, 0)
        os.fsync(self._descriptor)

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
