"""Copying the data folder of a worker that runs, so that what is copied can be started from.

::

    1. identity.json     a worker keeps the pins before it says that it has joined: so never newer than totals.mdb
    2. slices/*.mdb      each as its last commit left it
    3. totals.mdb        after the slices: one that is closed meanwhile is there, with its file or without
    4. registry.mdb      last: it knows every route, and every claim number, that anything copied before it has heard of

The other way round a slice that is closed meanwhile would be in neither, and the copy's registry would take itself for
an old one. Each file is a point in time of its own; within a slice that is all there is, since nothing spans two.

Everything is written to ``TARGET.partial``, synced, and renamed at the end: what bears the name TARGET is whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from common.errors import ConfigRefused, InputOutputFailed
from common.lmdb_file import UNUSED_BYTES_MAX, Damaged, copy_in_use, make_folder, sync_folder
from common.slices import SliceId
from tallyslice.version import own_version
from worker_node.identity import FILE_NAME as IDENTITY_FILE
from worker_node.registry import FILE_NAME as REGISTRY_FILE
from worker_node.shelf import SLICES_FOLDER
from worker_node.totals import FILE_NAME as TOTALS_FILE

MANIFEST = "backup.json"
PARTIAL = ".partial"

_SLICE_FILE = re.compile(r"(-?[0-9]{1,19})\.mdb", re.ASCII)
_SET_ASIDE = re.compile(r"-?[0-9]{1,19}\.mdb\.(damaged|lost)", re.ASCII)
_FILE_MODE = 0o600

Advance = Callable[[int], None]


class _Identity(msgspec.Struct, frozen=True):
    id: str
    uuid: str
    cluster: str | None


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was copied.

    Attributes:
        file: its path in the folder.
        began: RFC 3339; whatever was acknowledged before is in the copy.
        bytes: of the copy.
    """

    file: str
    began: str
    bytes: int


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied; ``backup.json`` beside the copies is this.

    Attributes:
        worker: whose folder it is.
        uuid: of the folder.
        cluster: that it belongs to; None: to none yet.
        whole: the whole folder, not some slices of it.
        tallyslice: the version that made it.
        files: what was copied, in that order.
        problems: what could not be.
    """

    worker: str
    uuid: str
    cluster: str | None
    whole: bool
    tallyslice: str
    files: tuple[Copied, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be copied.

    Attributes:
        folder: of the worker.
        identity: the content of its ``identity.json``.
        whole: all of it.
        slices: the slice files.
        others: files that were set aside; nobody writes them.
        stores: what is copied after the slices.
    """

    folder: Path
    identity: bytes
    whole: bool
    slices: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    stores: tuple[Path, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The bytes that the copying will tell to have gone through, if nothing grows."""
        return sum(_size(path) for path in (*self.slices, *self.others, *self.stores))


def planned(folder: Path, *, only: Collection[SliceId] = ()) -> Plan:
    """Look what there is to copy.

    Args:
        folder: of a worker; it may run.
        only: these slices and nothing else.

    Raises:
        ConfigRefused: it is not the folder of a worker, or has no file of a slice that was asked for.
        InputOutputFailed: it cannot be read.
    """
    try:
        identity = (folder / IDENTITY_FILE).read_bytes()
        msgspec.json.decode(identity, type=_Identity)
        files = list((folder / SLICES_FOLDER).iterdir()) if (folder / SLICES_FOLDER).is_dir() else []
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigRefused([f"{folder}: is not the data folder of a worker: there is no {IDENTITY_FILE}"]) from error
    except msgspec.MsgspecError as error:
        raise ConfigRefused([f"{folder}: is not the data folder of a worker; an API node's needs no backup"]) from error
    except OSError as error:
        raise InputOutputFailed(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    named = {SliceId(int(match[1])): path for path in files if (match := _SLICE_FILE.fullmatch(path.name))}
    missing = [f"{folder}: has no file of slice {slice_id}" for slice_id in only if slice_id not in named]
    if missing:
        raise ConfigRefused(missing)
    if only:
        chosen = tuple(named[slice_id] for slice_id in sorted(set(only)))
        return Plan(folder=folder, identity=identity, whole=False, slices=chosen)
    return Plan(
        folder=folder,
        identity=identity,
        whole=True,
        slices=tuple(named[slice_id] for slice_id in sorted(named)),
        others=tuple(sorted(path for path in files if _SET_ASIDE.fullmatch(path.name))),
        stores=(folder / TOTALS_FILE, folder / REGISTRY_FILE),
    )


def back_up(plan: Plan, target: Path, *, now: Callable[[], datetime], advance: Advance) -> Backup:
    """Copy it.

    Args:
        plan: what.
        target: a folder that is not there yet.
        now: the time of day.
        advance: told of the bytes that are done.

    Raises:
        ConfigRefused: the target is there, or is in the folder that is copied.
        InputOutputFailed: something cannot be read or written; nothing is left behind.
    """
    partial = target.with_name(target.name + PARTIAL)
    _require_free(plan.folder, target, partial)
    try:
        make_folder(target.parent)
        partial.mkdir(mode=0o700)
        try:
            backup = _Copying(plan, partial, now, advance).run()
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_folder(target.parent)
    except OSError as error:
        raise InputOutputFailed(f"{error.filename or target} cannot be written: {error.strerror}") from error
    return backup


def manifest_in(folder: Path) -> Backup | None:
    """What ``backup.json`` in a folder says; None if there is none that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    return None


def time_of_day() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def _require_free(folder: Path, target: Path, partial: Path) -> None:
    if target.exists():
        raise ConfigRefused([f"{target}: is there already, and nothing is written over"])
    if partial.exists():
        raise ConfigRefused([f"{partial}: is there already, of a backup that runs or was broken off: remove it first"])
    if folder.resolve() in target.resolve().parents:
        raise ConfigRefused([f"{target}: is in the folder that is to be copied"])


class _Copying:
    """One backup, file by file."""

    def __init__(self, plan: Plan, target: Path, now: Callable[[], datetime], advance: Advance) -> None:
        self._plan = plan
        self._target = target
        self._now = now
        self._advance = advance
        self._copied: list[Copied] = []
        self._problems: list[str] = []

    def run(self) -> Backup:
        """All of it, in the order that the top of this module has; synced when this returns."""
        slices = self._target / SLICES_FOLDER
        slices.mkdir(mode=0o700)
        if self._plan.whole:
            # Without it a worker refuses a folder with slices: some of them must not pass for all.
            self._write(IDENTITY_FILE, self._plan.identity)
        for path in (*self._plan.slices, *self._plan.others, *self._plan.stores):
            size = _size(path)
            self._copy(path, as_it_is=path in self._plan.others)
            self._advance(size)
        identity = msgspec.json.decode(self._plan.identity, type=_Identity)
        backup = Backup(
            worker=identity.id,
            uuid=identity.uuid,
            cluster=identity.cluster,
            whole=self._plan.whole,
            tallyslice=own_version(),
            files=tuple(self._copied),
            problems=tuple(self._problems),
        )
        self._write(MANIFEST, msgspec.json.format(msgspec.json.encode(backup), indent=1))
        sync_folder(slices)
        sync_folder(self._target)
        return backup

    def _copy(self, path: Path, *, as_it_is: bool) -> None:
        began = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = str(path.relative_to(self._plan.folder))
        try:
            if as_it_is:
                size = self._write(name, path.read_bytes())
            elif _size(path) <= UNUSED_BYTES_MAX:
                return  # it never saw a commit, or is not there: a slice that was closed meanwhile, no registry here
            else:
                size = copy_in_use(path, self._target / name)
        except FileNotFoundError:
            return  # closed, or set aside, since it was listed
        except Damaged as damage:
            (self._target / name).unlink(missing_ok=True)
            self._problems.append(f"{name}: {damage}")
            return
        self._copied.append(Copied(file=name, began=began, bytes=size))

    def _write(self, name: str, content: bytes) -> int:
        with open(self._target / name, "xb", opener=lambda path, flags: os.open(path, flags, _FILE_MODE)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return len(content)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
