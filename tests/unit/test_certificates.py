"""The files of `tls` become contexts, are looked at again, and a bad one changes nothing."""

from __future__ import annotations

import datetime as dt
import io
import math
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from common.certificates import TLS_FILE_BYTES_MAX, Certificates, expires
from common.config import ClusterConfig
from common.errors import ConfigRefused
from common.logs import new_log
from tests.support.authority import LONG_AGO, Authority
from tests.support.configs import cluster_config

SECURE = {"0": "https://localhost:9000/worker", "1": "https://localhost:9001/worker"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Node:
    """The certificates of a worker, or of an API node, all with https URLs."""

    def __init__(self, config: ClusterConfig, *, api: bool = False) -> None:
        self.written = io.StringIO()
        self.certificates = Certificates(
            node="api-0" if api else "worker-0",
            url="https://localhost:9000/worker",
            config=config,
            log=new_log("worker-0", stream=self.written),
            calls_workers=api,
        )

    def events(self) -> list[str]:
        return [line.partition("event=")[2].split()[0] for line in self.written.getvalue().splitlines()]


def config_of(authority: Authority, **more: str) -> ClusterConfig:
    return cluster_config(worker_nodes=SECURE, tls=authority.settings(**more))


def refusal(authority: Authority, **more: str) -> str:
    with pytest.raises(ConfigRefused) as caught:
        Node(config_of(authority, **more))
    return str(caught.value)


def test_each_node_finds_its_own_files(authority: Authority) -> None:
    """Where the path says so."""
    authority.issue("worker-0")

    node = Node(
        config_of(authority, certificate=f"{authority.folder}/{{node}}.crt", key=f"{authority.folder}/{{node}}.key")
    )

    assert node.certificates.listening is not None


def test_a_node_without_https_needs_no_files(tmp_path: Path) -> None:
    """A worker that listens without TLS reads none, though others have them."""
    config = cluster_config(
        api_nodes={"0": "https://localhost:8000/analytics"}, tls={"certificate": "/nowhere", "key": "/nowhere"}
    )

    found = Certificates(
        node="worker-0", url="http://localhost:9000/worker", config=config, log=new_log("worker-0"), calls_workers=False
    )

    assert (found.listening, found.calling(), found.expires) == (None, None, math.inf)


def test_a_node_reads_only_what_it_needs(authority: Authority) -> None:
    """An API node behind a proxy only the CA; a worker all but that."""
    certificate, key = authority.issue()
    behind_proxy = Certificates(
        node="api-0",
        url="http://localhost:8000/analytics",
        config=config_of(authority, certificate="/nowhere", key="/nowhere"),
        log=new_log("api-0"),
        calls_workers=True,
    )
    worker = Node(config_of(authority, ca="/nowhere", certificate=str(certificate), key=str(key))).certificates

    assert (behind_proxy.listening, behind_proxy.expires) == (None, math.inf)
    assert behind_proxy.calling() is not None
    assert worker.listening is not None


def test_what_cannot_be_used_is_refused_with_its_path(authority: Authority) -> None:
    """Each file in its own words."""
    certificate, key = authority.issue()
    certificate.rename(away := certificate.with_suffix(".away"))
    assert refusal(authority) == f"tls.certificate: {certificate} cannot be read: No such file or directory"
    away.rename(certificate)

    other = Authority(authority.folder / "other").issue()[1]
    assert refusal(authority, key=str(other)) == f"tls.key: {other} is not the key of {certificate}"

    nonsense = authority.folder / "nonsense"
    nonsense.write_bytes(b"\xff-----BEGIN CERTIFICATE-----\nno\n")
    assert f"{nonsense} and {key} are not a certificate and its key" in refusal(authority, certificate=str(nonsense))
    assert refusal(authority, client_ca=str(nonsense)) == f"tls.client-ca: {nonsense} must hold certificates as PEM"

    nonsense.write_bytes(b"x" * (TLS_FILE_BYTES_MAX + 1))
    assert "is larger than" in refusal(authority, certificate=str(nonsense))


def test_a_key_with_a_password_is_refused_without_asking_for_it(authority: Authority) -> None:
    """Nobody sits at the terminal of a node."""
    from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415 - only this test needs it

    certificate, key = authority.issue()
    private = pem.load_pem_private_key(key.read_bytes(), password=None)
    key.write_bytes(
        private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret"))
    )

    assert f"{certificate} and {key} are not a certificate and its key without a password" in refusal(authority)


def test_when_a_certificate_expires_is_read_from_it(authority: Authority) -> None:
    """Before and after 2050, when the way it is written changes."""
    for year in (2049, 2051):
        issued = authority._ca.issue_cert(  # noqa: SLF001 - the support has no need of it
            "localhost", not_after=dt.datetime(year, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
        )
        text = issued.cert_chain_pems[0].bytes()

        found = expires(ssl.PEM_cert_to_DER_cert(text.decode()))

        assert found == x509.load_pem_x509_certificate(text).not_valid_after_utc.timestamp()


def test_when_a_certificate_expires_need_not_be_known(authority: Authority) -> None:
    """Of a form that OpenSSL takes and we do not read, we say that it never does; it keeps no node from its work."""
    certificate, _ = authority.issue()
    certificate.write_text(certificate.read_text().replace(" CERTIFICATE-", " TRUSTED CERTIFICATE-"))

    node = Node(config_of(authority))

    assert math.isinf(node.certificates.expires)


async def test_new_files_are_used_from_the_next_look_on(authority: Authority) -> None:
    """And told once."""
    authority.issue()
    node = Node(config_of(authority))
    assert node.certificates.listening is not None
    before = node.certificates.listening()
    await node.certificates.look()
    assert node.certificates.listening() is before

    authority.issue()
    await node.certificates.look()

    assert node.certificates.listening() is not before
    assert node.events() == ["certificates_loaded"]


async def test_bad_files_leave_what_was_loaded_and_are_told_once(authority: Authority) -> None:
    """Until good ones come, or the old ones are back."""
    certificate, _ = authority.issue()
    good = certificate.read_bytes()
    node = Node(config_of(authority))
    assert node.certificates.listening is not None
    before = node.certificates.listening()

    certificate.write_bytes(Authority(authority.folder / "other").issue()[0].read_bytes())
    await node.certificates.look()
    await node.certificates.look()

    assert node.certificates.listening() is before
    assert "is not the key of" in (node.certificates.problem() or "")
    assert node.events() == ["certificates_refused"]

    certificate.write_bytes(good)
    await node.certificates.look()

    assert node.certificates.problem() is None


async def test_an_expired_certificate_is_used_and_told(authority: Authority) -> None:
    """Whoever connects refuses it, and says so; a node that would not start would say less."""
    authority.issue(expired=True)

    node = Node(config_of(authority))

    assert node.certificates.expires == LONG_AGO.timestamp() + 86_400
    assert node.certificates.problem() == "the certificate of worker-0 expired on 2020-01-02"


async def test_a_new_cluster_file_is_followed_with_its_files_or_not_at_all(authority: Authority) -> None:
    """What cannot be loaded refuses the change; what can is used when the rest of the file is."""
    authority.issue()
    node = Node(config_of(authority), api=True)
    before = node.certificates.calling()

    with pytest.raises(ConfigRefused):
        await node.certificates.prepare(config_of(authority, ca=str(authority.folder / "none")))
    other = Authority(authority.folder / "other")
    use = await node.certificates.prepare(config_of(authority, ca=str(other.path)))

    assert node.certificates.calling() is before
    use()
    assert node.certificates.calling() is not before


def test_the_contexts_verify_and_speak_no_old_version(authority: Authority) -> None:
    """Certificates, host names, and TLS from 1.2 on."""
    authority.issue()
    api = Node(config_of(authority, client_ca=str(authority.path)), api=True).certificates
    worker = Node(config_of(authority, client_ca=str(authority.path))).certificates
    calling = api.calling()
    assert calling is not None
    assert api.listening is not None
    assert worker.listening is not None

    assert (calling.check_hostname, calling.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (api.listening().verify_mode, worker.listening().verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)
    for context in (calling, api.listening(), worker.listening()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
