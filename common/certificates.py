"""TLS: the contexts that a node listens and calls with, made of the files that the cluster file names.

::

    start      files -> contexts; what cannot be used ends the process (78)
    reload     every reload-seconds: other bytes? -> new contexts -> the next handshakes use them
                                                  +-> cannot be used: the contexts before stay, and everybody is told

New contexts, and not the old ones with other certificates in them: a context that was given a certificate without its
key has neither the old pair nor the new one, and a CA that was once in it stays in it. Connections that are open keep
what they began with.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

from common.config import ClusterConfig, TlsFiles, is_https
from common.errors import ConfigRefused
from common.logs import Log

TLS_FILE_BYTES_MAX = 4 << 20  # the system's bundle of all CAs has a quarter of a megabyte

_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18
_TIME_FORMATS = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What was made of one state of the files.

    Attributes:
        listening: for those who connect; None if this node listens without TLS.
        calling: for connections to workers; None if none is to have TLS.
        expires: when the certificate that this node shows does, in Unix seconds; infinite if it shows none.
        digest: of the files' bytes.
    """

    listening: ssl.SSLContext | None = None
    calling: ssl.SSLContext | None = None
    expires: float = math.inf
    digest: bytes = b""


class Certificates:
    """The contexts of a node, kept as its files are.

    Args:
        node: its name, such as ``api-0``.
        url: where it listens.
        config: what the cluster file says as it starts.
        log: is told of what changes.
        calls_workers: whether it does; a worker calls nobody.

    Attributes:
        refusal: why the files as they are now are not used; None if they are.

    Raises:
        ConfigRefused: a file cannot be used.
    """

    def __init__(self, *, node: str, url: str, config: ClusterConfig, log: Log, calls_workers: bool) -> None:
        self.refusal: str | None = None
        self._node = node
        self._listens = is_https(url)
        self._calls_workers = calls_workers
        self._log = log
        self._told: tuple[bytes, str] | None = None
        self._files = self._files_of(config)
        self._contexts = self._load(self._files)

    @property
    def listening(self) -> Callable[[], ssl.SSLContext] | None:
        """What to begin a handshake with, each time; None if this node listens without TLS."""
        return self._listening if self._listens else None

    @property
    def expires(self) -> float:
        """When the certificate that the node shows does, in Unix seconds; infinite if it shows none."""
        return self._contexts.expires

    def calling(self) -> ssl.SSLContext | None:
        """For a connection to a worker; None if none is to have TLS."""
        return self._contexts.calling

    def problem(self) -> str | None:
        """What people should know."""
        if self.refusal is not None:
            return f"the new TLS files are not used: {self.refusal}"
        if self.expires <= time.time():
            return f"the certificate of {self._node} expired on {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%d}"
        return None

    async def prepare(self, config: ClusterConfig) -> Callable[[], None]:
        """Load what a new cluster file names; the answer puts it to use, together with the rest of that file.

        Raises:
            ConfigRefused: a file cannot be used.
        """
        # A node that listens with TLS does so until it is restarted, whatever its new URL.
        files = self._files_of(config) or (self._files if self._listens else None)
        contexts = self._contexts if files == self._files else await asyncio.to_thread(self._load, files)

        def use() -> None:
            self._files, self._contexts = files, contexts

        return use

    async def keep_fresh(self, config: Callable[[], ClusterConfig]) -> None:
        """Look at the files again and again; a task's body."""
        while True:
            await asyncio.sleep(config().reload_seconds)
            await self.look()

    async def look(self) -> None:
        """Use the files as they are now, if they are others."""
        files, running = self._files, self._contexts
        try:
            digest = await asyncio.to_thread(self._digest, files)
            if digest == running.digest:
                self.refusal = self._told = None
                return
            contexts = await asyncio.to_thread(self._load, files)
        except ConfigRefused as error:
            self._refuse(str(error))
            return
        if self._files is not files:
            return  # the cluster file names others by now
        self._contexts = contexts
        self.refusal = self._told = None
        self._log.info("certificates_loaded", expires=_shown(contexts.expires))

    def _listening(self) -> ssl.SSLContext:
        assert self._contexts.listening is not None  # noqa: S101 - asked only of a node that listens with TLS
        return self._contexts.listening

    def _refuse(self, reason: str) -> None:
        if reason != self.refusal:  # the same is told once
            self._log.error("certificates_refused", reason=reason)
        self.refusal = reason

    def _files_of(self, config: ClusterConfig) -> TlsFiles | None:
        """The files that concern this node."""
        calls = self._calls_workers and any(map(is_https, config.worker_nodes.values()))
        if config.tls is None or not (self._listens or calls):
            return None
        return config.tls.of(self._node)

    def _load(self, files: TlsFiles | None) -> Contexts:
        if files is None:
            return Contexts()
        # Before the files are used: if they change meanwhile, the next look finds others than these.
        digest = self._digest(files)
        listening = calling = None
        if self._listens:
            listening = listening_context(files, ask_for_certificate=not self._calls_workers)
        if self._calls_workers:
            calling = calling_context(files)
        expires = _expires(files.certificate) if self._shows(files) else math.inf
        return Contexts(listening=listening, calling=calling, expires=expires, digest=digest)

    def _shows(self, files: TlsFiles) -> bool:
        """Whether this node has to show who it is."""
        return self._listens or (self._calls_workers and files.client_ca is not None)

    def _digest(self, files: TlsFiles | None) -> bytes:
        """Of those files that this node needs; the others need not be on its machine."""
        if files is None:
            return b""
        needed: dict[str, Path | None] = {}
        if self._shows(files):
            needed |= {"certificate": files.certificate, "key": files.key}
        needed |= {"ca": files.ca} if self._calls_workers else {"client-ca": files.client_ca}
        digest = blake2b(digest_size=16)
        for name, path in needed.items():
            if path is not None:
                content = _read(f"tls.{name}", path)
                digest.update(b"%s %d " % (name.encode(), len(content)))
                digest.update(content)
        return digest.digest()


def listening_context(files: TlsFiles, *, ask_for_certificate: bool) -> ssl.SSLContext:
    """For a node that listens.

    Args:
        files: its own.
        ask_for_certificate: whether those who connect need one, if ``client-ca`` says so: at a worker, where only nodes
            and operators come. An API node's clients are the public.

    Raises:
        ConfigRefused: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _show(context, files)
    if ask_for_certificate and files.client_ca is not None:
        _trust(context, "tls.client-ca", files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def calling_context(files: TlsFiles) -> ssl.SSLContext:
    """For connections to nodes: their certificates and their host names are verified.

    Raises:
        ConfigRefused: a file cannot be used.
    """
    context = trusting_context(files.ca)
    if files.client_ca is not None:
        _show(context, files)
    return context


def trusting_context(ca: Path | None, *, key: str = "tls.ca") -> ssl.SSLContext:
    """For connections to whoever has a certificate of this CA, or of one of the system's.

    Raises:
        ConfigRefused: the file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificates and host names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_default_certs()
    else:
        _trust(context, key, ca)
    return context


def _show(context: ssl.SSLContext, files: TlsFiles) -> None:
    _read("tls.certificate", files.certificate)
    _read("tls.key", files.key)
    try:
        # With no password, or OpenSSL would ask for it at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = f"tls.key: {files.key} is not the key of {files.certificate}"
        else:
            reason = f"tls: {files.certificate} and {files.key} are not a certificate and its key without a password"
        raise ConfigRefused([reason]) from error
    except OSError as error:
        raise ConfigRefused([f"tls: {files.certificate} and {files.key} cannot be read: {error.strerror}"]) from error


def _trust(context: ssl.SSLContext, key: str, path: Path) -> None:
    content = _read(key, path)
    try:
        context.load_verify_locations(cadata=content.decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigRefused([f"{key}: {path} must hold certificates as PEM"]) from error


def _read(key: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(TLS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigRefused([f"{key}: {path} cannot be read: {error.strerror}"]) from error
    if len(content) > TLS_FILE_BYTES_MAX:
        raise ConfigRefused([f"{key}: {path} is larger than {TLS_FILE_BYTES_MAX} bytes"])
    return content


def _expires(path: Path) -> float:
    """When the first certificate of a file does; infinite where that cannot be read."""
    try:
        _, _, rest = path.read_text(encoding="ascii", errors="replace").partition(_PEM_BEGIN)
        body, _, _ = rest.partition(_PEM_END)
        return expires(ssl.PEM_cert_to_DER_cert(f"{_PEM_BEGIN}{body}{_PEM_END}"))
    # OpenSSL takes more forms than this one ("TRUSTED CERTIFICATE"), and the file may just be replaced.
    except (OSError, ValueError, IndexError, StopIteration):
        return math.inf


def expires(certificate: bytes) -> float:
    """When an X.509 certificate does, in Unix seconds (RFC 5280, 4.1: a sequence in DER; Python reads none of its own).

    ::

        certificate { what is signed { [version] serial algorithm issuer validity { not before, not after } ... } ... }
    """
    signed = next(_parts(next(_parts(certificate))[1]))[1]
    for tag, content in _parts(signed):
        if tag == _SEQUENCE:
            inner = list(_parts(content)) if content else []
            if inner and all(kind in _TIME_FORMATS for kind, _ in inner):
                kind, text = inner[-1]
                return datetime.strptime(text.decode("ascii"), _TIME_FORMATS[kind]).replace(tzinfo=UTC).timestamp()
    return math.inf


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each value."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:  # then its low bits say how many bytes of length follow
            digits = length & 0x7F
            length = int.from_bytes(der[at : at + digits], "big")
            at += digits
        yield tag, der[at : at + length]
        at += length


def _shown(moment: float) -> str:
    return "never" if math.isinf(moment) else datetime.fromtimestamp(moment, UTC).isoformat()
