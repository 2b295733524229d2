"""Can every node of a cluster listen on this machine? Asked before any is started, so that the answer comes at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from common.config import listen_address
from common.errors import ConfigRefused, PortInUse


def check_ports(nodes: Iterable[tuple[str, str]]) -> None:
    """Check that the addresses of nodes, given as (name, URL), are of this machine and free.

    Raises:
        PortInUse: some are taken: all of them.
        ConfigRefused: some are not of this machine: all of them.
    """
    taken, foreign = [], []
    for name, url in nodes:
        host, port = listen_address(url)
        failures = list(_failures(host, port))
        if errno.EADDRINUSE in failures:
            taken.append(f"port {port} is in use: {name} cannot listen at {url}")
        elif failures and None not in failures:
            foreign.append(f"{url}: {name} cannot listen there; `tallyslice up` runs every node on this machine")
    if foreign:
        raise ConfigRefused(foreign)
    if taken:
        raise PortInUse(
            "\n".join([*taken, "Stop what listens there, or give the node another port in the cluster file."])
        )


def _failures(host: str, port: int) -> Iterable[int | None]:
    """Of each address that the host stands for, why it cannot be listened at; None where it can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return [errno.EADDRNOTAVAIL]
    return [_failure(family, address) for family, _, _, _, address in found]


def _failure(family: socket.AddressFamily, address: tuple[object, ...]) -> int | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose last connections are still fading away is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        return error.errno
    return None
