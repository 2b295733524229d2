"""The cluster file: what it may say, and what it means.

JSON5. Every problem is reported at once, each with its JSON path and what is allowed::

    routing[2].nodes[1]: no worker "7"; known: "0", "1"

The keys and their defaults are the table "Cluster file" of ``docs/configuration.md``. A file is only checked in itself
here; whether it may replace what is running is for ``common/judge.py``.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from common import json5
from common.addresses import Network, parse_network
from common.anonymise import SECRET_BYTES
from common.cors import ANY_ORIGIN, ORIGIN_FORM, is_origin
from common.errors import ConfigRefused
from common.events import CLASSIC_TYPES, EventTypes, is_event_type
from common.json5 import join_path
from common.rates import RATE_FORM, Rate, RateRefused, parse_rate
from common.routing import RoutingEntry, WorkerId
from common.slices import EARLIEST, EPOCH, LATEST, Micros, SliceId
from common.wire import NAMES_MAX, ROUTE_WORKERS_MAX, SLICE_MAX, SLICE_MIN

API_PATH, WORKER_PATH = "/analytics", "/worker"

FILE_BYTES_MAX = 4 << 20  # some ten thousand routing entries; more is another file given by mistake
LENGTH_SECONDS_MAX = 100 * 366 * 86_400  # a century; keeps every slice within printable years near its neighbours
SPAN_SECONDS_MAX = 10_000 * 366 * 86_400  # beyond any pair of printable instants: as good as no limit
RELOAD_SECONDS_MIN, RELOAD_SECONDS_MAX = 0.01, 86_400  # below, a node would do nothing but read its file
CACHE_TTL_SECONDS_MAX = 86_400
SLICES_MAX = 100_000_000
SPOOL_BYTES_MAX = 1 << 50
TOKEN_CHARACTERS_MAX = 4096
ORIGINS_MAX = 1000
PROXIES_MAX = 1000  # looked through for each request that a limit counts
SHOWN_MAX = 30  # names in one message

_NODE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_SECRET = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_URL = re.compile(r"[!-~]+", re.ASCII)

_CLASSIC = EventTypes(CLASSIC_TYPES)
_KEYS = (
    "api-nodes", "worker-nodes", "length-of-time-slice", "first-slice", "routing",
    "registry", "event-types", "cache-ttl-seconds", "reload-seconds", "close-after-seconds", "close-grace-seconds",
    "max-future-seconds", "max-past-seconds", "max-slices", "spool-max-bytes", "spool-max-age-seconds",
    "secret-file", "internal-token-file", "tls", "tracing",
    "tokens-file", "rate-limits", "cors-origins", "trusted-proxies", "compat",
)  # fmt: skip
_RATE_LIMITS = ("per-token", "per-address")
_TLS_KEYS = ("certificate", "key", "ca", "client-ca")
NODE_MARK = "{node}"  # in a path of "tls": the node's own name, such as api-0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    """Where traces go.

    Attributes:
        endpoint: a collector's, for OTLP over HTTP.
        sample_ratio: the share of requests that are traced though their caller does not ask for it.
    """

    endpoint: str
    sample_ratio: float = 0.01

    def __str__(self) -> str:
        """As the log shows a change."""
        return f"{self.sample_ratio:g} to {self.endpoint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files that one node listens, and calls others, with; all PEM.

    Attributes:
        certificate: its certificate, and those between it and a CA's.
        key: the private key of the first of them.
        ca: the certificates that workers' certificates must lead to; None: the system's.
        client_ca: those that the certificates of whoever calls a worker must lead to; None: none is asked for.
    """

    certificate: Path
    key: Path
    ca: Path | None = None
    client_ca: Path | None = None

    def of(self, node: str) -> TlsFiles:
        """The files of the node of a name, such as ``api-0`` or ``worker-3``."""
        certificate, key, ca, client_ca = (
            None if path is None else Path(str(path).replace(NODE_MARK, node)) for path in self.paths()
        )
        assert certificate is not None  # noqa: S101 - as of self
        assert key is not None  # noqa: S101 - likewise
        return TlsFiles(certificate=certificate, key=key, ca=ca, client_ca=client_ca)

    def paths(self) -> tuple[Path | None, ...]:
        """All of them, in the order above."""
        return self.certificate, self.key, self.ca, self.client_ca

    def __str__(self) -> str:
        """As the log shows a change."""
        named = zip(_TLS_KEYS, self.paths(), strict=True)
        return ", ".join(f"{name} {path}" for name, path in named if path is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How often clients may call an API node's process.

    Attributes:
        per_token: each token; None: as often as it likes.
        per_address: each address; likewise.
    """

    per_token: Rate | None = None
    per_address: Rate | None = None

    def __str__(self) -> str:
        shown = (("per-token", self.per_token), ("per-address", self.per_address))
        return ", ".join(f"{name}: {rate}" for name, rate in shown if rate is not None) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """One state of the cluster file.

    Attributes:
        api_nodes: id -> URL as written, without trailing slash, in the file's order.
        worker_nodes: likewise.
        length_of_time_slice: seconds.
        first_slice: the start of slice 0; None means "system": as pinned, or now if nothing is.
        routing: ascending by slice, no slice twice.
        registry: the worker that hosts the registry; the first one listed if the file names none.
        event_types: the types of event that are taken.
        cache_ttl_seconds: for how long a summary may be answered from memory.
        reload_seconds: the file is read at least this often.
        close_after_seconds: a slice takes no events from its end + that on; None: never closes.
        close_grace_seconds: the worker closes a slice that much later.
        max_future_seconds: how far ahead of now a timestamp may be.
        max_past_seconds: how far behind; None: any.
        max_slices: how many slices may be open.
        spool_max_bytes: an API node's spool takes nothing in while it holds as much.
        spool_max_age_seconds: likewise, while what it holds is older.
        secret_file: the secret that user keys are made with.
        internal_token_file: the token between the nodes; None: none is asked for.
        tls: what nodes whose URL is https listen with, and how they know each other; None: no URL is.
        tokens_file: whose tokens API nodes take; None: nobody is asked for one.
        rate_limits: how often clients may call; None: as often as they like.
        cors_origins: of pages that may call from a browser; ``("*",)``: all.
        trusted_proxies: whose X-Forwarded-For is believed.
        tracing: where OpenTelemetry traces go; None: there are none.
        compat: "rt" for answers as an older system's clients expect them.
        version: a digest of the file's bytes.
    """

    api_nodes: Mapping[str, str]
    worker_nodes: Mapping[WorkerId, str]
    length_of_time_slice: int
    first_slice: Micros | None
    routing: tuple[RoutingEntry, ...]
    registry: WorkerId
    event_types: EventTypes = _CLASSIC
    cache_ttl_seconds: float = 1  # old enough to absorb a dashboard's polling, young enough to feel live
    reload_seconds: float = 30  # for file systems that report no changes
    close_after_seconds: float | None = None
    close_grace_seconds: float = 86_400
    max_future_seconds: float = 86_400
    max_past_seconds: float | None = None
    max_slices: int = 100_000
    spool_max_bytes: int = 1 << 30  # some ten million events
    spool_max_age_seconds: float = 86_400
    secret_file: Path
    internal_token_file: Path | None = None
    tls: TlsFiles | None = None
    tracing: TracingConfig | None = None
    tokens_file: Path | None = None
    rate_limits: RateLimits | None = None
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    compat: Literal["rt"] | None = None
    version: str


def load_config(path: Path) -> ClusterConfig:
    """Read and check a cluster file.

    Raises:
        ConfigRefused: it cannot be read, or has problems: all of them.
    """
    return parse_config(read_file(path), folder=path.absolute().parent)


def read_file(path: Path) -> bytes:
    """The bytes of a cluster file.

    Raises:
        ConfigRefused: it cannot be read, or is far too large to be one.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigRefused([f"{path}: cannot be read: {error.strerror}"]) from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigRefused([f"{path}: is larger than {FILE_BYTES_MAX} bytes"])
    return content


def parse_config(content: bytes, *, folder: Path) -> ClusterConfig:
    """Check the bytes of a cluster file.

    Args:
        content: JSON5.
        folder: what its relative paths start from.

    Raises:
        ConfigRefused: it has problems: all of them.
    """
    try:
        value, twice = json5.read(content)
    except json5.Json5Refused as error:
        raise ConfigRefused([f"the file {error}"]) from error
    if not isinstance(value, dict):
        raise ConfigRefused([f"the file must be one object, not {_shown(value)}"])
    reader = _Reader(value, folder)
    reader.problems += [f"{path}: is given twice; once is allowed" for path in twice]
    config = reader.config(version=version_of(content))
    if reader.problems:
        raise ConfigRefused(reader.problems)
    return config


def version_of(content: bytes) -> str:
    """A short digest that names one state of the file."""
    return blake2b(content, digest_size=8).hexdigest()


def listen_address(url: str) -> tuple[str, int]:
    """The host and port that a node's URL names; without a port, the scheme's own."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def is_https(url: str) -> bool:
    """Whether a node with this URL listens with TLS."""
    return urlsplit(url).scheme == "https"


def is_loopback(url: str) -> bool:
    """Whether a URL can be reached from this machine only."""
    host = listen_address(url)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_secret(config: ClusterConfig) -> bytes:
    """The cluster's secret: 32 bytes.

    Made if it is missing and the whole cluster is on this machine; otherwise one node would make its own.

    Raises:
        ConfigRefused: it is missing, unreadable, not 64 hex digits, or other users of the machine may read it.
    """
    path = config.secret_file
    alone = all(map(is_loopback, (*config.api_nodes.values(), *config.worker_nodes.values())))
    try:
        if alone and not path.exists():
            make_secret(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(TOKEN_CHARACTERS_MAX).decode(errors="replace").strip()
    except OSError as error:
        hint = "" if alone or path.exists() else '; make one with "openssl rand -hex 32" and give it to every API node'
        raise ConfigRefused([f"secret-file: {path} cannot be read: {error.strerror}{hint}"]) from error
    # The group may read it: so it is where Kubernetes mounts secrets for an fsGroup.
    if mode & 0o027:
        raise ConfigRefused([f"secret-file: {path} has mode {mode:04o}, so others may read it; must be 0600"])
    if not _SECRET.fullmatch(text):
        raise ConfigRefused([f"secret-file: {path} must hold {2 * SECRET_BYTES} hex digits"])
    return bytes.fromhex(text)


def make_secret(path: Path) -> None:
    """Make the file whole or not at all: nodes that start together must all read the one that came first."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a Path opens with no mode bits
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(unfinished)  # fails where the name is taken, as O_EXCL does
    except FileExistsError:
        pass  # another node was first
    finally:
        unfinished.unlink(missing_ok=True)
    # The secret is pinned at once: it must outlive a power cut that follows.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_token(config: ClusterConfig) -> str | None:
    """The token that nodes show each other; None if the config names no file.

    Raises:
        ConfigRefused: the file cannot be read, or holds no token.
    """
    path = config.internal_token_file
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(TOKEN_CHARACTERS_MAX + 2).decode(errors="replace").strip()
    except OSError as error:
        raise ConfigRefused([f"internal-token-file: {path} cannot be read: {error.strerror}"]) from error
    if not _TOKEN.fullmatch(text) or len(text) > TOKEN_CHARACTERS_MAX:
        allowed = f"1 to {TOKEN_CHARACTERS_MAX} visible ASCII characters without a space"
        raise ConfigRefused([f"internal-token-file: {path} must hold {allowed}"])
    return text


class _Reader:
    """Reads the keys one by one, collects problems, and goes on with something harmless after each."""

    def __init__(self, fields: dict[str, Any], folder: Path) -> None:
        self._fields = fields
        self._folder = folder
        self.problems: list[str] = []

    def config(self, *, version: str) -> ClusterConfig:
        self._unknown("", self._fields, _KEYS)
        taken: dict[tuple[str, int], str] = {}
        api_nodes = self._nodes("api-nodes", API_PATH, taken)
        worker_nodes = {WorkerId(name): url for name, url in self._nodes("worker-nodes", WORKER_PATH, taken).items()}
        return ClusterConfig(
            api_nodes=api_nodes,
            worker_nodes=worker_nodes,
            length_of_time_slice=int(self._number("length-of-time-slice", 1, LENGTH_SECONDS_MAX, whole=True) or 1),
            first_slice=self._first_slice(),
            routing=self._routing(worker_nodes),
            registry=self._registry(worker_nodes),
            event_types=self._event_types(),
            cache_ttl_seconds=self._number("cache-ttl-seconds", 0, CACHE_TTL_SECONDS_MAX, default=1) or 0,
            reload_seconds=self._number("reload-seconds", RELOAD_SECONDS_MIN, RELOAD_SECONDS_MAX, default=30) or 30,
            close_after_seconds=self._number("close-after-seconds", 0, SPAN_SECONDS_MAX, default=None),
            close_grace_seconds=self._number("close-grace-seconds", 0, SPAN_SECONDS_MAX, default=86_400) or 0,
            max_future_seconds=self._number("max-future-seconds", 0, SPAN_SECONDS_MAX, default=86_400) or 0,
            max_past_seconds=self._number("max-past-seconds", 0, SPAN_SECONDS_MAX, default=None),
            max_slices=int(self._number("max-slices", 1, SLICES_MAX, whole=True, default=100_000) or 1),
            spool_max_bytes=int(self._number("spool-max-bytes", 0, SPOOL_BYTES_MAX, whole=True, default=1 << 30) or 0),
            spool_max_age_seconds=self._number("spool-max-age-seconds", 0, SPAN_SECONDS_MAX, default=86_400) or 0,
            secret_file=self._path("secret-file", "secret.key") or self._folder,
            internal_token_file=self._path("internal-token-file", None),
            tracing=self._tracing(),
            tls=self._tls((*api_nodes.values(), *worker_nodes.values())),
            tokens_file=self._path("tokens-file", None),
            rate_limits=self._rate_limits(),
            cors_origins=self._cors_origins(),
            trusted_proxies=self._trusted_proxies(),
            compat=self._compat(),
            version=version,
        )

    def _problem(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def _unknown(self, path: str, fields: Iterable[str], known: Sequence[str]) -> None:
        for key in fields:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {_shown(close[0])}?" if close else f"known: {_listed(known)}"
                self._problem(join_path(path, key), f"unknown key; {hint}")

    def _required(self, key: str, kind: type, what: str) -> Any:  # noqa: ANN401 - any JSON value
        """The value of a key of the given type; None, and a problem, if there is none."""
        if key not in self._fields:
            self._problem(key, f"is missing; must be {what}")
        elif not isinstance(value := self._fields[key], kind) or not value:
            self._problem(key, f"must be {what}, not {_shown(value)}")
        else:
            return value
        return None

    def _nodes(self, key: str, path: str, taken: dict[tuple[str, int], str]) -> dict[str, str]:
        nodes: dict[str, str] = {}
        what = f'an object of id -> URL, such as {{"0": "http://localhost:8000{path}"}}'
        for name, url in (self._required(key, dict, what) or {}).items():
            place = f"{key}[{json.dumps(name, ensure_ascii=False)}]"
            if not _NODE_ID.fullmatch(name):
                self._problem(place, "an id has 1 to 64 of A-Z a-z 0-9 _ . -")
            nodes[name] = ""
            if (wrong := _wrong_with_url(url, path)) is not None:
                self._problem(place, wrong)
                continue
            nodes[name] = url.removesuffix("/")
            first = taken.setdefault(address := listen_address(url), place)
            if first != place:
                self._problem(
                    place, f"{address[0]}:{address[1]} is taken by {first}; each node needs an address of its own"
                )
        return nodes

    def _number(
        self, key: str, least: float, most: float, *, whole: bool = False, default: float | None = math.nan
    ) -> float | None:
        """A number within its bounds; a default of NaN means that the key is required, of None that null is allowed."""
        value = self._fields.get(key, default)
        if value is None and default is None:
            return None
        kind = "a whole number" if whole else "a number"
        allowed = f"must be {kind} from {least:g} to {most}{' or null' if default is None else ''}"
        if key not in self._fields and value is not None and math.isnan(value):
            self._problem(key, f"is missing; {allowed}")
        elif (
            isinstance(value, bool)
            or not isinstance(value, int if whole else (int, float))
            or not least <= value <= most
        ):
            self._problem(key, f"{allowed}, not {_shown(value)}")
        else:
            number: float = value
            return number
        return None

    def _first_slice(self) -> Micros | None:
        what = '"system" or an ISO date-time such as "2017-05-20T00:00:00" (UTC unless it has an offset)'
        text = self._required("first-slice", str, what)
        if text is None or text == "system":
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is not None:
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            micros = (aware - EPOCH) // timedelta(microseconds=1)
            if EARLIEST <= micros <= LATEST:
                return Micros(micros)
        self._problem("first-slice", f"must be {what}, not {_shown(text)}")
        return None

    def _routing(self, workers: Mapping[WorkerId, str]) -> tuple[RoutingEntry, ...]:
        what = 'a list of entries such as {"slice": 0, "nodes": ["0"]}'
        entries: dict[int, RoutingEntry] = {}
        for index, value in enumerate(self._required("routing", list, what) or []):
            place = f"routing[{index}]"
            if not isinstance(value, dict):
                self._problem(place, f'must be an object with "slice" and "nodes", not {_shown(value)}')
                continue
            self._unknown(place, value, ("slice", "nodes"))
            nodes = self._route(f"{place}.nodes", value.get("nodes"), workers)
            number = value.get("slice")
            if isinstance(number, bool) or not isinstance(number, int) or not SLICE_MIN <= number <= SLICE_MAX:
                self._problem(f"{place}.slice", f"must be a whole number of 64 bits, not {_shown(number)}")
            elif number in entries:
                self._problem(f"{place}.slice", f"slice {number} has an entry already; one is allowed")
            else:
                entries[number] = RoutingEntry(slice=SliceId(number), nodes=nodes)
        return tuple(entries[number] for number in sorted(entries))

    def _route(self, path: str, value: object, workers: Mapping[WorkerId, str]) -> tuple[WorkerId, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= ROUTE_WORKERS_MAX:
            self._problem(path, f"must be a list of 1 to {ROUTE_WORKERS_MAX} worker ids, not {_shown(value)}")
            return ()
        for index, name in enumerate(value):
            if not isinstance(name, str) or name not in workers:
                self._problem(f"{path}[{index}]", f"no worker {_shown(name)}; known: {_listed(workers)}")
            elif name in value[:index]:
                self._problem(f"{path}[{index}]", f"worker {_shown(name)} is named already; each may be named once")
        return tuple(value)

    def _registry(self, workers: Mapping[WorkerId, str]) -> WorkerId:
        first = next(iter(workers), WorkerId(""))
        name = self._fields.get("registry", first)
        if "registry" in self._fields and (not isinstance(name, str) or name not in workers):
            self._problem("registry", f"no worker {_shown(name)}; known: {_listed(workers)}")
        return WorkerId(name)

    def _event_types(self) -> EventTypes:
        value = self._fields.get("event-types", sorted(CLASSIC_TYPES))
        if value == "any":
            return EventTypes(None)
        if not isinstance(value, list) or not 1 <= len(value) <= NAMES_MAX:
            self._problem("event-types", f'must be "any" or a list of 1 to {NAMES_MAX} names, not {_shown(value)}')
            return _CLASSIC
        for index, name in enumerate(value):
            if not isinstance(name, str) or not is_event_type(name):
                allowed = "1 to 64 of A-Z a-z 0-9 _ . : - that are no reserved word"
                self._problem(f"event-types[{index}]", f"{_shown(name)} is not an event type; allowed: {allowed}")
            elif name in value[:index]:
                self._problem(f"event-types[{index}]", f"{_shown(name)} is named already; each may be named once")
        return EventTypes(frozenset(filter(lambda name: isinstance(name, str), value)))

    def _path(self, key: str, default: str | None) -> Path | None:
        value = self._fields.get(key, default)
        if value is None and default is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            or_null = " or null" if default is None else ""
            self._problem(key, f"must be a path, relative to this file{or_null}, not {_shown(value)}")
            return None
        return self._folder / value

    def _tracing(self) -> TracingConfig | None:
        value = self._fields.get("tracing")
        if value is None:
            return None
        if not isinstance(value, dict):
            what = 'an object such as {"endpoint": "http://localhost:4318/v1/traces", "sample-ratio": 0.01}'
            self._problem("tracing", f"must be {what} or null, not {_shown(value)}")
            return None
        self._unknown("tracing", value, ("endpoint", "sample-ratio"))
        endpoint, ratio = value.get("endpoint"), value.get("sample-ratio", 0.01)
        if not _is_url(endpoint):
            what = "a URL such as http://localhost:4318/v1/traces, without user and password"
            self._problem("tracing.endpoint", f"must be {what}")  # not shown: it may have one
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
            self._problem("tracing.sample-ratio", f"must be a number from 0 to 1, not {_shown(ratio)}")
            ratio = 0.0
        return TracingConfig(endpoint=str(endpoint), sample_ratio=float(ratio))

    def _tls(self, urls: Iterable[str]) -> TlsFiles | None:
        value = self._fields.get("tls")
        if value is None:
            if secure := next((url for url in urls if is_https(url)), None):
                self._problem("tls", f'is missing; {_shown(secure)} needs {{"certificate": a path, "key": a path}}')
            return None
        if not isinstance(value, dict):
            what = 'an object such as {"certificate": "tls/{node}.crt", "key": "tls/{node}.key", "ca": "tls/ca.crt"}'
            self._problem("tls", f"must be {what} or null, not {_shown(value)}")
            return None
        self._unknown("tls", value, _TLS_KEYS)
        certificate, key = (self._tls_path(value, name, required=True) for name in _TLS_KEYS[:2])
        ca, client_ca = (self._tls_path(value, name, required=False) for name in _TLS_KEYS[2:])
        if certificate is None or key is None:
            return None
        return TlsFiles(certificate=certificate, key=key, ca=ca, client_ca=client_ca)

    def _tls_path(self, fields: dict[str, Any], name: str, *, required: bool) -> Path | None:
        value = fields.get(name)
        if value is None and not required:
            return None
        if isinstance(value, str) and value and "\0" not in value:
            return self._folder / value
        or_null, given = "" if required else " or null", "" if name not in fields else f", not {_shown(value)}"
        self._problem(f"tls.{name}", f"must be a path, relative to this file{or_null}{given}")
        return None

    def _rate_limits(self) -> RateLimits | None:
        value = self._fields.get("rate-limits")
        if value is None:
            return None
        if not isinstance(value, dict):
            example = '{"per-token": "1000/second", "per-address": "100/second"}'
            self._problem("rate-limits", f"must be an object such as {example} or null, not {_shown(value)}")
            return None
        self._unknown("rate-limits", value, _RATE_LIMITS)
        per_token, per_address = (self._rate(join_path("rate-limits", key), value.get(key)) for key in _RATE_LIMITS)
        return RateLimits(per_token=per_token, per_address=per_address)

    def _rate(self, path: str, value: object) -> Rate | None:
        if value is None:
            return None
        try:
            return parse_rate(value)
        except RateRefused:
            self._problem(path, f"must be {RATE_FORM}, or null, not {_shown(value)}")
            return None

    def _cors_origins(self) -> tuple[str, ...]:
        value = self._fields.get("cors-origins", [])
        if value == ANY_ORIGIN:
            return (ANY_ORIGIN,)
        if not isinstance(value, list) or len(value) > ORIGINS_MAX:
            self._problem(
                "cors-origins", f'must be "*" or a list of at most {ORIGINS_MAX} origins, not {_shown(value)}'
            )
            return ()
        for index, origin in enumerate(value):
            if not is_origin(origin):
                self._problem(f"cors-origins[{index}]", f"must be {ORIGIN_FORM}, not {_shown(origin)}")
        return tuple(value)

    def _trusted_proxies(self) -> tuple[Network, ...]:
        value = self._fields.get("trusted-proxies", [])
        if not isinstance(value, list) or len(value) > PROXIES_MAX:
            what = f"a list of at most {PROXIES_MAX} addresses or networks"
            self._problem("trusted-proxies", f"must be {what}, not {_shown(value)}")
            return ()
        found: list[Network] = []
        for index, text in enumerate(value):
            try:
                found.append(parse_network(text))
            except ValueError:
                example = (
                    'an address such as "10.0.0.7" or a network such as "10.0.0.0/8" without bits behind its length'
                )
                self._problem(f"trusted-proxies[{index}]", f"must be {example}, not {_shown(text)}")
        return tuple(found)

    def _compat(self) -> Literal["rt"] | None:
        value = self._fields.get("compat")
        if value is None or value == "rt":
            return value
        self._problem("compat", f'must be "rt" or null, not {_shown(value)}')
        return None


def _is_url(url: object) -> bool:
    if not isinstance(url, str) or not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
        )
    except ValueError:
        return False


def _wrong_with_url(url: object, path: str) -> str | None:
    """What is wrong with a node's URL; None if nothing is."""
    example = f"must be a URL such as http://localhost:8000{path}"
    if not isinstance(url, str) or not _URL.fullmatch(url):
        return f"{example}, not {_shown(url)}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return f"{example} with a port from 1 to 65535"
    checks = (
        # First, so that no message shows a password.
        ("@" in parts.netloc, "; a user or password is not allowed"),
        (parts.scheme not in ("http", "https"), f"; the scheme must be http or https, not {_shown(parts.scheme)}"),
        (not parts.hostname or port == 0, f" with a host and a port from 1 to 65535, not {_shown(url)}"),
        ("?" in url or "#" in url, f"; a query or fragment is not allowed, as in {_shown(url)}"),
        (parts.path.removesuffix("/") != path, f"; the path must be {path}, not {_shown(parts.path)}"),
    )
    return next((example + text for wrong, text in checks if wrong), None)


def _shown(value: object) -> str:
    """A value as JSON, short enough for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # of a hexadecimal number with more digits than Python is willing to print
        text = "a number of too many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line of a terminal


def _listed(names: Iterable[str]) -> str:
    """Names as JSON strings, the first of them where they are many; "none" where there are none."""
    shown = [json.dumps(name, ensure_ascii=False) for name in names]
    more = f" and {len(shown) - SHOWN_MAX} more" if len(shown) > SHOWN_MAX else ""
    return ", ".join(shown[:SHOWN_MAX]) + more or "none"
