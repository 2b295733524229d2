"""Last call: a node that leaves lets nobody in any more, and serves everybody who got through to it.

::

    drain --> nobody new is heard --LAST_CALL_SECONDS--> listening ends --> idle connections end --> the rest finishes
              whoever is connected is answered

Without it, what waits to be accepted when a listening socket is closed is reset by the kernel. The client's connection
had come about by then, and its request may be on its way: a proxy cannot tell whether the event was counted, so it must
not send it to another node, and the request fails. So the packets that ask for a new connection (SYN) are thrown away
for a moment before: to whoever sent one it is as if it was lost. It comes again after a second and is refused, and the
proxy knows that nothing was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

# Between the last connection that comes about and the end of those that are idle: for its request to arrive.
LAST_CALL_SECONDS = 0.25

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
# linux/filter.h: operation, where to if true, if false, operand. What is looked at begins with the TCP header.
_NO_NEWCOMERS = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x45, 0, 1, 0x02),  # SYN?
    (0x06, 0, 0, 0),  # throw it away
    (0x06, 0, 0, 0xFFFFFFFF),  # take it: packets of connections that are about to come about
)


async def last_call(runner: web.BaseRunner) -> None:
    """Let nobody in any more, and give those who are in a moment to say what they want. Then close the listeners."""
    for site in runner.sites:
        server = site._server  # noqa: SLF001 - a site tells its addresses, but not its sockets
        refuse_newcomers(getattr(server, "sockets", None) or ())
    await asyncio.sleep(LAST_CALL_SECONDS)


def refuse_newcomers(sockets: Iterable[socket.socket]) -> None:
    """Have the kernel throw away what asks for a new connection to these listening sockets; where it can: on Linux."""
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEWCOMERS))
    program = struct.pack("HP", len(_NO_NEWCOMERS), ctypes.addressof(code))
    for listener in sockets:
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            # The loop hands out what only looks like a socket. A duplicate is the same one to the kernel.
            with socket.socket(fileno=os.dup(listener.fileno())) as same, contextlib.suppress(OSError):
                same.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
