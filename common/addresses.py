"""Whose address a request comes from, and which of them count as one caller. Addresses stay in memory."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOBODY = ""
"""A client that has gone before it could be asked."""
FORWARDED_HOPS_MAX = 32  # looked at, from the last one on

_CALLER_BITS = 64  # of an IPv6 address: whoever has one has as many as these leave open


def parse_network(text: object) -> Network:
    """Read an address, or a network such as ``10.0.0.0/8``.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str):
        raise ValueError("must be a text")  # noqa: TRY004 - one error for whatever is no network
    return ip_network(text)


def client_of(peer: str | None, forwarded: Iterable[str], trusted: Iterable[Network]) -> str:
    """The address of the client that a request comes from.

    Args:
        peer: who is connected.
        forwarded: the values of ``X-Forwarded-For``, as they came.
        trusted: proxies whose word is taken: each says at the end of the header who is connected to it.

    Returns:
        The last address before the trusted ones; the peer's, where that is not trusted or says nothing readable.
    """
    if peer is None:
        return NOBODY
    trusted = tuple(trusted)
    if not trusted or not _is_in(peer, trusted):
        return peer
    client = peer
    hops = ",".join(forwarded).split(",")
    for hop in reversed(hops[-FORWARDED_HOPS_MAX:]):
        text = hop.strip()
        if _parsed(text) is None:
            break
        client = text
        if not _is_in(text, trusted):
            break
    return client


def caller_of(address: str) -> str:
    """What requests are counted by: an IPv4 address, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = _parsed(address)
    if parsed is None:
        return NOBODY
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    return str(IPv6Network((int(parsed), _CALLER_BITS), strict=False))


def _is_in(address: str, networks: Iterable[Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(text: str) -> Address | None:
    """An address; one of IPv4 within IPv6 as that, since it depends on the socket which of them is seen."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
