"""Whose address a request comes from, as in common/addresses.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.addresses import NOBODY, caller_of, client_of, parse_network

PROXIES = [parse_network("10.0.0.0/8"), parse_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1,198.51.100.7 , 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("2001:db8::1", ["2a00::1"], "2a00::1"),
        ("fe80::1%eth0", ["2a00::1"], "fe80::1%eth0"),
        ("", ["198.51.100.7"], ""),
        (None, ["198.51.100.7"], NOBODY),
    ],
)
def test_a_proxy_is_believed_as_far_as_it_is_trusted(peer: str | None, forwarded: list[str], client: str) -> None:
    """The last address that no trusted proxy has; what is before it anybody may have written."""
    assert client_of(peer, forwarded, PROXIES) == client


def test_without_proxies_only_the_peer_counts() -> None:
    """Anybody can send the header."""
    assert client_of("192.0.2.1", ["198.51.100.7"], []) == "192.0.2.1"


@given(st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=4))
def test_no_header_is_too_strange(forwarded: list[str]) -> None:
    """A client is the peer, or an address that was in it."""
    client = client_of("10.0.0.1", forwarded, PROXIES)

    assert client == "10.0.0.1" or client in ",".join(forwarded)


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not:an:address", NOBODY),
    ],
)
def test_a_network_of_ipv6_is_one_caller(address: str, caller: str) -> None:
    """Who has one address of it has them all."""
    assert caller_of(address) == caller


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "localhost", "10.0.0.0/33", 5, None])
def test_what_is_no_network_is_refused(text: object) -> None:
    """With bits behind its length, somebody meant something else."""
    with pytest.raises(ValueError, match=r"."):
        parse_network(text)
