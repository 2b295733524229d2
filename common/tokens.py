"""The tokens file: who may call an API node, and for what. Nothing in it opens anything by itself.

JSON5, a list of entries; every problem is reported at once, with its place::

    [
      {"name": "shop", "hash": "sha256:9f86...", "scopes": ["write"]},
      {"name": "grafana", "hash": "sha256:6030...", "scopes": ["read"], "limit": "9/second", "expires": "2027-01-01"},
    ]

A token is ``tsl_`` and 32 random bytes, and so is its hash: nobody guesses what has 256 bits. That is why one SHA-256
does, where a password that a person made up would need salt and a slow hash, and why looking it up in a dictionary by
that hash tells a caller nothing: he cannot steer which hash he gets. docs/decisions/0028 has the reasons.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from common import json5
from common.config import FILE_BYTES_MAX, ClusterConfig, version_of
from common.errors import ConfigRefused, InputOutputFailed
from common.json5 import join_path
from common.rates import RATE_FORM, Rate, RateRefused, parse_rate

PREFIX = "tsl_"
"""So that people and secret scanners see what it is."""
TOKEN_BYTES = 32
TOKENS_MAX = 10_000
NO_LIMIT = "none"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_KEYS = ("name", "hash", "scopes", "limit", "expires")


class Scope(Enum):
    """What a token is for; none includes another."""

    WRITE = "write"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is known of a token.

    Attributes:
        name: who has it; may be shown.
        scopes: what it is for.
        own_limit: whether it has a limit of its own, which replaces all others.
        limit: that limit; None: as often as it likes.
        expires: Unix seconds from which on it is unknown; None: never.
    """

    name: str
    scopes: frozenset[Scope]
    own_limit: bool = False
    limit: Rate | None = None
    expires: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One state of the tokens file.

    Attributes:
        by_digest: SHA-256 -> the token.
        version: a digest of the file's bytes.
    """

    by_digest: Mapping[bytes, Token]
    version: str


def new_token() -> str:
    """A token that nobody has."""
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest_of(token: str) -> bytes:
    """What a token is looked up by."""
    return sha256(token.encode(errors="surrogateescape")).digest()


def load_tokens(config: ClusterConfig) -> Tokens | None:
    """The tokens of the file that a config names; None if it names none.

    Raises:
        ConfigRefused: the file cannot be used: all that is wrong with it.
    """
    path = config.tokens_file
    return None if path is None else parse_tokens(read_tokens(path))


def read_tokens(path: Path) -> bytes:
    """The bytes of a tokens file.

    Raises:
        ConfigRefused: it cannot be read, or others may change or read it.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        hint = "" if path.exists() else '; make one with "tallyslice token new"'
        raise ConfigRefused([f"tokens-file: {path} cannot be read: {error.strerror}{hint}"]) from error
    # The group may read it: so it is where Kubernetes mounts secrets for an fsGroup.
    if mode & 0o027:
        raise ConfigRefused([f"tokens-file: {path} has mode {mode:04o}, so others may read or change it; must be 0600"])
    if len(content) > FILE_BYTES_MAX:
        raise ConfigRefused([f"tokens-file: {path} is larger than {FILE_BYTES_MAX} bytes"])
    return content


def parse_tokens(content: bytes) -> Tokens:
    """Check the bytes of a tokens file.

    Raises:
        ConfigRefused: it has problems: all of them. None quotes what should be a hash: it may be a token.
    """
    reader = _Reader()
    tokens = reader.tokens(content)
    if reader.problems:
        raise ConfigRefused([f"tokens-file: {problem}" for problem in reader.problems])
    return Tokens(by_digest=tokens, version=version_of(content))


class _Reader:
    """Reads the entries one by one, and collects problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._names: set[str] = set()

    def tokens(self, content: bytes) -> dict[bytes, Token]:
        try:
            entries, twice = json5.read(content)
        except json5.Json5Refused as error:
            self.problems.append(f"the file {error}")
            return {}
        self.problems += [f"{path}: is given twice; once is allowed" for path in twice]
        if not isinstance(entries, list) or len(entries) > TOKENS_MAX:
            self.problems.append(f"the file must be a list of at most {TOKENS_MAX} entries")
            return {}
        found: dict[bytes, Token] = {}
        for index, entry in enumerate(entries):
            place = f"[{index}]"
            if not isinstance(entry, dict):
                self.problems.append(f'{place}: must be an object with "name", "hash" and "scopes"')
                continue
            digest, token = self._token(place, entry)
            if digest is not None and found.setdefault(digest, token) is not token:
                self.problems.append(f"{place}.hash: is that of {json.dumps(found[digest].name)} already")
        return found

    def _token(self, place: str, entry: dict[str, Any]) -> tuple[bytes | None, Token]:
        for key in entry:
            if key not in _KEYS:
                self.problems.append(f"{join_path(place, key)}: unknown key; known: {', '.join(_KEYS)}")
        limit, own_limit = self._limit(f"{place}.limit", entry.get("limit"))
        token = Token(
            name=self._name(f"{place}.name", entry.get("name")),
            scopes=self._scopes(f"{place}.scopes", entry.get("scopes")),
            own_limit=own_limit,
            limit=limit,
            expires=self._expires(f"{place}.expires", entry.get("expires")),
        )
        text = entry.get("hash")
        if not isinstance(text, str) or not _HASH.fullmatch(text):
            self.problems.append(f'{place}.hash: must be "sha256:" and 64 lower-case hex digits')
            return None, token
        return bytes.fromhex(text.partition(":")[2]), token

    def _name(self, place: str, value: object) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.problems.append(f"{place}: a name has 1 to 64 of A-Z a-z 0-9 _ . -")
            return ""
        if value in self._names:
            self.problems.append(f"{place}: {json.dumps(value)} is the name of another entry already")
        self._names.add(value)
        return value

    def _scopes(self, place: str, value: object) -> frozenset[Scope]:
        known = [scope.value for scope in Scope]
        if not isinstance(value, list) or not value or any(one not in known for one in value):
            self.problems.append(f"{place}: must be a list of at least one of {', '.join(map(json.dumps, known))}")
            return frozenset()
        return frozenset(map(Scope, value))

    def _limit(self, place: str, value: object) -> tuple[Rate | None, bool]:
        if value is None or value == NO_LIMIT:
            return None, value == NO_LIMIT
        try:
            return parse_rate(value), True
        except RateRefused:
            self.problems.append(f'{place}: must be {RATE_FORM}, or "{NO_LIMIT}"')
            return None, True

    def _expires(self, place: str, value: object) -> float | None:
        if value is None:
            return None
        try:
            return parse_expiry(value)
        except ValueError:
            self.problems.append(f"{place}: must be {EXPIRY_FORM}")
            return None


EXPIRY_FORM = 'a date or date-time such as "2027-01-01" or "2027-01-01T12:00:00" (UTC unless it has an offset)'


def parse_expiry(value: object) -> float:
    """A moment in Unix seconds.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError(EXPIRY_FORM)  # noqa: TRY004 - one error for whatever is no moment
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def entry_of(
    token: str, *, name: str, scopes: Sequence[Scope], limit: str | None = None, expires: str | None = None
) -> dict[str, Any]:
    """What the tokens file has of a token."""
    entry: dict[str, Any] = {"name": name, "hash": f"sha256:{digest_of(token).hex()}"}
    entry["scopes"] = [scope.value for scope in Scope if scope in scopes]
    return entry | {key: value for key, value in (("limit", limit), ("expires", expires)) if value is not None}


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file: what two read at once, the later one would write without the other's.

    Raises:
        InputOutputFailed: it cannot be written.
    """
    # Beside the file, since that is replaced as a whole; left there, since who waits for it may have it open.
    lock = path.with_name(f".{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputOutputFailed(f"{path} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a file that is to be changed; none if there is no file.

    Raises:
        ConfigRefused: the file cannot be used as it is.
    """
    if not path.exists():
        return []
    content = read_tokens(path)
    parse_tokens(content)
    entries: list[dict[str, Any]] = json5.read(content)[0]
    return entries


def write_entries(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Put a new file in the old one's place: whoever reads sees one or the other, also after a power cut.

    Raises:
        ConfigRefused: what would be written is no tokens file; the old one stays.
        InputOutputFailed: it cannot be written; the old one stays.
    """
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    content = f"[\n{lines}\n]\n".encode() if entries else b"[]\n"
    parse_tokens(content)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a Path opens with no mode bits
            file.write(content)
            if path.exists():
                # A node may read it as a member of its group.
                old = path.stat()
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputOutputFailed(f"{path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
