"""A throw-away CA, and what it signs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HERE = ("localhost", "127.0.0.1")


class Authority:
    """A CA whose certificate is ``ca.crt`` of a folder, or another file of it."""

    def __init__(self, folder: Path, name: str = "ca.crt") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.path = folder / name
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, name: str = "node", *, hosts: tuple[str, ...] = HERE, expired: bool = False) -> tuple[Path, Path]:
        """Write a certificate for hosts, and its key: ``NAME.crt`` and ``NAME.key``."""
        issued = self._ca.issue_cert(
            *hosts,
            not_before=LONG_AGO if expired else None,
            not_after=LONG_AGO + timedelta(days=1) if expired else None,
        )
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        # Whole or not at all, and the key first: a node may look at any time.
        for path, pem in ((key, issued.private_key_pem), (certificate, issued.cert_chain_pems[0])):
            unfinished = path.with_suffix(".new")
            pem.write_to_path(str(unfinished))
            unfinished.replace(path)
        return certificate, key

    def client(self, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client that trusts this CA connects with, and shows."""
        context = ssl.create_default_context(cafile=self.path)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context

    def settings(self, **more: str) -> dict[str, str]:
        """The key ``tls`` of a cluster file: one certificate for all nodes."""
        files = {"certificate": self.folder / "node.crt", "key": self.folder / "node.key", "ca": self.path}
        return {name: str(path) for name, path in files.items()} | {
            name.replace("_", "-"): path for name, path in more.items()
        }
