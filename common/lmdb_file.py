"""One LMDB file, as all stores use it: the settings, and transactions that nobody can forget to end.

Work on a file is a closure that is given the transaction. Whatever it changes in Python it returns, because it may run
twice: when the map is full the transaction is aborted, the map doubled, and the closure run again.

A file belongs to the thread that opened it. No process may open one file twice (two nodes in one process: two folders);
another process may copy it meanwhile (``copy_in_use``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Container, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TypeAlias, TypeVar

import lmdb
from lmdb.verify import VerifyError, verify

from common.errors import InputOutputFailed, TallysliceError

T = TypeVar("T")
# Quoted: only the stubs know that the class is generic.
Txn: TypeAlias = "lmdb.Transaction[bytes]"
Database: TypeAlias = "lmdb._Database"  # noqa: SLF001 - the binding has no other name for it

# Address space, not memory and not disk: a file that outgrows it is reopened with twice as much.
MAP_BYTES = 64 << 30
# The data file, the lock file, and the data file once more for the synchronous write of the meta page.
DESCRIPTORS = 3
# LMDB writes two meta pages when it creates a file: one that has no more never saw a commit.
UNUSED_BYTES_MAX = 8192
# One writer and few readers in the process that owns the file, and one for each copy that is being made of it.
_READERS_MAX = 16
# Files hold user keys: for the worker's eyes only.
_FILE_MODE = 0o600

# What LMDB finds wrong with the content of a file, as opposed to what the system refuses.
_DAMAGE = (
    lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.IncompatibleError,
    # The binding's iterators pass over an error of their first step; the second finds the transaction lost.
    lmdb.BadTxnError,
)  # fmt: skip


class Damaged(TallysliceError):
    """A file is not what was written: it cannot be read, or does not belong here."""


# What a call on a file may raise when the disk, or the system, refuses, or gives back other bytes.
STORE_ERRORS = (Damaged, lmdb.Error, OSError)


class Kind(Enum):
    """What a named database holds."""

    MAP = "one value per key"
    SET = "one key, and a sorted set of values of one length under it"


class LmdbFile:
    """One LMDB file with named databases; they are made by the first transaction that writes.

    Attributes:
        path: of the data file; the lock file is beside it.
        txn: the last committed transaction; 0 before the first.
        size_bytes: of the data file then: the pages that are in it.
    """

    def __init__(
        self, *, path: Path, databases: Mapping[str, Kind], later: Container[str] = (), map_bytes: int = MAP_BYTES
    ) -> None:
        """Take what the file is to have.

        Args:
            path: of the data file.
            databases: name -> kind.
            later: those of them that a file of an earlier version lacks; the next transaction that writes makes them.
            map_bytes: the size of its map.
        """
        self.path = path
        self.txn = 0
        self.size_bytes = 0
        self._page_bytes = 0
        self._databases = databases
        self._later = later
        self._map_bytes = map_bytes
        self._env: lmdb.Environment | None = None
        self._handles: dict[str, Database] = {}

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            Damaged: it is not a file of ours, or no longer.
        """
        self._open(self._map_bytes)

    def close(self) -> None:
        """Close the file; nothing happens if it is not open."""
        env, self._env, self._handles = self._env, None, {}
        if env is not None:
            env.close()

    def write(self, work: Callable[[Txn], T]) -> T:
        """Run ``work`` in a transaction and commit it: on disk when this returns. No change, no write.

        Any error but a full map leaves nothing behind, and is the caller's.

        Raises:
            Damaged: LMDB cannot make sense of what it reads on the way.
        """
        while True:
            try:
                return self._write(work)
            except lmdb.MapFullError:
                self._grow()
            except _DAMAGE as error:
                raise Damaged(f"{self.path.name} cannot be written: {type(error).__name__}") from error

    def read(self, work: Callable[[Txn], T]) -> T:
        """Run ``work`` in a read-only transaction. Only where ``txn`` is not 0: before, there are no databases.

        Raises:
            Damaged: LMDB cannot make sense of what it reads.
        """
        try:
            with self._environment.begin() as txn:
                return work(txn)
        except _DAMAGE as error:
            raise Damaged(f"{self.path.name} cannot be read: {type(error).__name__}") from error

    def database(self, name: str) -> Database:
        """The handle of a named database; within ``write`` always there."""
        return self._handles[name]

    def has(self, name: str) -> bool:
        """Whether a named database is there; within ``write`` it is."""
        return name in self._handles

    @property
    def _environment(self) -> lmdb.Environment:
        if self._env is None:
            message = f"{self.path.name} is not open"
            raise RuntimeError(message)
        return self._env

    def _write(self, work: Callable[[Txn], T]) -> T:
        before = self._handles
        try:
            with self._environment.begin(write=True) as txn:
                if len(before) < len(self._databases):
                    self._handles = {name: self._handle(name, txn, create=True) for name in self._databases}
                result = work(txn)
        except BaseException:
            self._handles = before  # those that were made are gone with the transaction
            raise
        self._note_size()
        return result

    def _note_size(self) -> None:
        info = self._environment.info()
        self.txn, self.size_bytes = info["last_txnid"], (info["last_pgno"] + 1) * self._page_bytes

    def _open(self, map_bytes: int) -> None:
        try:
            self._env = lmdb.open(
                os.fspath(self.path),
                map_size=map_bytes,
                subdir=False,
                mode=_FILE_MODE,
                max_dbs=len(self._databases),
                max_readers=_READERS_MAX,
                # A commit is on disk, data and meta page, when it returns. Without writemap no stray write in this
                # process can reach the file, and a full disk is an error instead of a SIGBUS.
                sync=True,
                metasync=True,
                writemap=False,
                # The data format of LMDB 0.9, which every tool reads.
                lib_version=0,
            )
        except _DAMAGE as error:
            raise Damaged(f"{self.path.name} cannot be opened: {type(error).__name__}") from error
        self._page_bytes = self._environment.stat()["psize"]
        self._note_size()
        if self.txn == 0:
            return
        if self.path.stat().st_size < self.size_bytes and (damage := damage_of(self.path)):
            # LMDB may leave free pages at the end unwritten, hence the second look. But to read one that is gone would
            # end the process: SIGBUS is what a mapped file has for that.
            self.close()
            raise Damaged(f"{self.path.name} was cut short: {damage[0]}")
        try:
            # Handles from a read-only transaction would end with it. This one writes nothing either.
            with self._environment.begin(write=True) as txn:
                self._handles = dict(self._found(txn))
        except (lmdb.NotFoundError, *_DAMAGE) as error:
            self.close()
            raise Damaged(f"{self.path.name} lacks what it must have: {type(error).__name__}") from error

    def _found(self, txn: Txn) -> Iterator[tuple[str, Database]]:
        for name in self._databases:
            try:
                yield name, self._handle(name, txn, create=False)
            except lmdb.NotFoundError:
                if name not in self._later:
                    raise

    def _handle(self, name: str, txn: Txn, *, create: bool) -> Database:
        is_set = self._databases[name] is Kind.SET
        return self._environment.open_db(name.encode(), txn, create=create, dupsort=is_set, dupfixed=is_set)

    def _grow(self) -> None:
        # Reopened rather than resized: handles that the aborted transaction made are gone with it.
        map_bytes = self._environment.info()["map_size"] * 2
        self.close()
        self._open(map_bytes)


def damage_of(path: Path) -> list[str]:
    """What is wrong with the structure of a file that nobody has open; empty if nothing is. Reads all of it."""
    try:
        problems: list[str] = verify(os.fspath(path), subdir=False)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        problems = [str(error)]
    return problems


def copy_in_use(path: Path, target: Path) -> int:
    """Copy a file that another process may be writing, as its last commit left it; on disk when this returns.

    Never by the process that has the file open. Writers wait for as long as it takes to write two pages; from there on
    they go on, and the copy holds a reader's place in the lock file, so that no page of its is used again meanwhile.

    Returns:
        The size of the copy.

    Raises:
        FileNotFoundError: there is no such file, or not any more.
        Damaged: LMDB cannot make sense of it.
        InputOutputFailed: the system refuses to read it, or to write the copy.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    lock = path.with_name(path.name + "-lock")
    made_lock = not lock.exists()
    try:
        env = lmdb.open(
            os.fspath(path), map_size=MAP_BYTES, subdir=False, mode=_FILE_MODE, readonly=True,
            # Whoever opens a file first decides how many readers there may be.
            max_readers=_READERS_MAX,
            lib_version=0,
        )  # fmt: skip
        try:
            if made_lock:
                _give_to_owner_of(path, lock)
            env.reader_check()  # a copy that was killed would hold its pages for as long as the file stays open
            with open(target, "xb", buffering=0, opener=_private) as copy:
                # Not compact: that ends the process where there are sorted sets (lmdb 3.0.0).
                env.copyfd(copy.fileno(), compact=False)
                os.fsync(copy.fileno())
                return os.fstat(copy.fileno()).st_size
        finally:
            env.close()
    except _DAMAGE as error:
        raise Damaged(f"{path.name} cannot be copied: {type(error).__name__}") from error
    except (lmdb.Error, OSError) as error:
        if path.exists():
            raise InputOutputFailed(f"{path.name} cannot be copied: {error}") from error
        if made_lock:
            lock.unlink(missing_ok=True)  # made in the moment in which the file was removed
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)


def _give_to_owner_of(path: Path, lock: Path) -> None:
    """A lock file that root made would keep the worker out of its own file."""
    owner = path.stat()
    if os.geteuid() != owner.st_uid:
        os.chown(lock, owner.st_uid, owner.st_gid)


def unlink(path: Path) -> None:
    """Remove a data file and its lock file. The folder is the caller's to sync."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + "-lock").unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make what was created in the folder, renamed or removed from it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing, if it is not there; it survives a power cut from here on."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until nobody else holds the lock on a folder, and hold it: among the processes of a node that share it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_or_fail(file: LmdbFile) -> None:
    """Open a file that the node cannot do without.

    Raises:
        InputOutputFailed: it is damaged, or the system refuses it.
    """
    try:
        file.open()
    except (Damaged, lmdb.Error, OSError) as error:
        raise InputOutputFailed(f"{file.path.name} cannot be opened: {error}") from error
