"""What a connection is until its TLS handshake is done: it has a deadline, is counted, and then becomes another.

::

    accepted -> handshake -> done     -> the connection that speaks HTTP
                          -> refused  -> closed: tls_failed (no TLS, or nothing in common, or no good certificate)
                          -> too slow -> closed: late_handshake
             -> too many connections  -> closed at once

asyncio can do the same as it listens, but then knows one context for good, and tells nobody of a handshake that fails,
nor how many are under way. So its transport is let go as soon as it is there, before it reads, and a second one is made
for a copy of its socket, which is what asyncio has for sockets that were accepted elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import MutableSet


class Threshold(asyncio.Protocol):
    """A connection whose handshake is under way.

    Args:
        context: what to begin it with.
        make: makes the connection that it becomes.
        has_room: whether one more connection is let in.
        ended: is told the reason for which one was ended.
        under_way: the tasks of the handshakes under way.
        handshake_seconds: for the client to do its part.
        shutdown_seconds: for the client to say that it has heard that the connection ends.
    """

    def __init__(
        self,
        *,
        context: Callable[[], ssl.SSLContext],
        make: Callable[[], asyncio.Protocol],
        has_room: Callable[[], bool],
        ended: Callable[[str], None],
        under_way: MutableSet[asyncio.Task[None]],
        handshake_seconds: float,
        shutdown_seconds: float,
    ) -> None:
        self._context = context
        self._make = make
        self._has_room = has_room
        self._ended = ended
        self._under_way = under_way
        self._handshake_seconds = handshake_seconds
        self._shutdown_seconds = shutdown_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        stream = cast("asyncio.Transport", transport)
        if not isinstance(stream.get_extra_info("sockname"), tuple):
            # A socket with a path: a process of the same node, which needs none.
            connection = self._make()
            stream.set_protocol(connection)
            connection.connection_made(stream)
            return
        if not self._has_room():
            self._ended("too_many")
            stream.abort()
            return
        try:
            copy = socket.socket(fileno=os.dup(stream.get_extra_info("socket").fileno()))
        except OSError:  # no descriptor is left
            self._ended("too_many")
            return
        finally:
            stream.abort()
        copy.setblocking(False)  # noqa: FBT003 - the library's
        task = asyncio.get_running_loop().create_task(self._shake(copy))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _shake(self, copy: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make,
                copy,
                ssl=self._context(),
                ssl_handshake_timeout=self._handshake_seconds,
                ssl_shutdown_timeout=self._shutdown_seconds,
            )
        except ssl.SSLError:
            self._ended("tls_failed")
        except ConnectionAbortedError:  # asyncio's word for a handshake that takes too long
            self._ended("late_handshake")
        except OSError:
            pass  # the client has left: a port scan, or a load balancer that looks whether somebody listens
