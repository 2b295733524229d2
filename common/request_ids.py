"""The id of a request: leads from an answer to the line of the log about it, and on to the worker's line.

::

    client --X-Request-Id--> API node --the same, of a question; or one of its own, of an envelope--> worker
           <--X-Request-Id-- a problem          log line with request_id             log line with request_id

A client may bring one of 1 to 64 of ``A-Z a-z 0-9 _ . -``: it ends up in logs, so it must not hold what identifies a
user. Anything else is as if it had brought none. One is drawn only when there is something to tell, or a worker to ask:
a request that is answered with success costs nothing.
"""

from __future__ import annotations

import os
import re
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "X-Request-Id"
_FORM = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

# Told apart by the process that drew them, and counted from there on: unique enough to search logs for, and cheap
# enough for each envelope.
_PROCESS = os.urandom(5).hex()
_numbers = count(1)


def draw_id() -> str:
    """An id that nobody else has."""
    return f"{_PROCESS}-{next(_numbers):x}"


def brought_id(headers: Mapping[str, str] | None) -> str | None:
    """The id that a request brings, if it can be one."""
    text = None if headers is None else headers.get(HEADER)
    return text if text is not None and _FORM.fullmatch(text) else None
