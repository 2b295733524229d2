"""Whose a data directory is: the worker's, its uuid, the cluster that it joined; and the process that owns it.

``identity.json`` is ``{"id": "2", "uuid": "...", "cluster": "..." or null}``. It is replaced as a whole, so the lock
that keeps a second process out is taken on the folder itself.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from common.errors import ConfigRefused, DirectoryOwned, InputOutputFailed
from common.lmdb_file import make_folder, sync_folder
from common.routing import WorkerId
from worker_node import registry, totals
from worker_node.shelf import SLICES_FOLDER

if TYPE_CHECKING:
    from types import TracebackType

FILE_NAME = "identity.json"
DATA_NAMES = (totals.FILE_NAME, registry.FILE_NAME, SLICES_FOLDER)


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: WorkerId
    uuid: str
    cluster: str | None


class DataDirectory:
    """A worker's data directory. A context manager: owned from its entry to its exit.

    Attributes:
        folder: where it is.
        id: the worker that it belongs to.
        uuid: drawn when it was made.
        cluster: the cluster that the worker joined; None until then.
    """

    def __init__(self, *, folder: Path, worker: WorkerId) -> None:
        self.folder = folder
        self.id = worker
        self.uuid = ""
        self.cluster: str | None = None
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Take the directory; make it, and its identity, where there is none.

        Raises:
            DirectoryOwned: another process has it.
            ConfigRefused: it belongs to another worker, or to nobody knows whom.
            InputOutputFailed: the file system refuses.
        """
        try:
            make_folder(self.folder, mode=0o700)
            self._lock()
            self._identify()
        except OSError as error:
            self._release()
            raise InputOutputFailed(f"the data directory {self.folder} cannot be used: {error.strerror}") from error
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go of it."""
        self._release()

    def join(self, cluster: str) -> None:
        """Keep the cluster that the worker joined; durable when this returns."""
        self._store(cluster)

    def _lock(self) -> None:
        self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryOwned(f"the data directory {self.folder} is owned by another process") from error

    def _identify(self) -> None:
        path = self.folder / FILE_NAME
        if not path.exists():
            # Whatever else lies here, such as a volume's lost+found, is not ours.
            found = [name for name in DATA_NAMES if (self.folder / name).exists()]
            if found:
                raise ConfigRefused([f"--data {self.folder}: holds {found[0]}, but no {FILE_NAME} says whose it is"])
            self.uuid = uuid.uuid4().hex
            self._store(None)
            return
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except msgspec.DecodeError as error:
            raise ConfigRefused([f"--data {self.folder}: {FILE_NAME} cannot be read: {error}"]) from error
        if stored.id != self.id:
            raise ConfigRefused([f"--data {self.folder}: belongs to worker {stored.id}, not to worker {self.id}"])
        self.uuid, self.cluster = stored.uuid, stored.cluster

    def _store(self, cluster: str | None) -> None:
        path = self.folder / FILE_NAME
        new = path.with_name(path.name + ".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(_Stored(id=self.id, uuid=self.uuid, cluster=cluster)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(self.folder)
        self.cluster = cluster

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
