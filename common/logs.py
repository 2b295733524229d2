"""Logs: one line per event of interest, as ``key=value`` pairs on standard error; none per request.

Privacy comes before comfort: an exception is shown as its type and the places it went through. Its message may quote
what somebody sent, so only the messages of our own errors are shown, and these never do.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog

from common.errors import TallysliceError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

Log = structlog.typing.FilteringBoundLogger
_FRAMES = 4  # the innermost ones tell where, the rest is the event loop


def new_log(node: str, *, stream: TextIO | None = None) -> Log:
    """A log whose lines name the node, such as ``api-0`` or ``worker-3``."""
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(file=stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_errors,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "node", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        node=node,
    )
    return log


def describe(error: BaseException) -> str:
    """An error without anything that it may quote: its type, where it came from; of our own errors the message too."""
    if isinstance(error, TallysliceError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    way = " < ".join(f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno}" for frame in reversed(frames))
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        kind = f"{kind} (errno {error.errno})"
    return f"{kind} at {way}" if way else kind


def quiet_library_logger() -> logging.Logger:
    """A logger for aiohttp that drops everything: its lines name peers, and quote what they sent.

    What is worth knowing of them, the error middleware logs in our own words.
    """
    logger = logging.Logger("tallyslice.quiet")  # noqa: LOG001 - not registered on purpose: nobody can turn it on
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _plain_errors(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        if isinstance(value, BaseException):
            line[name] = describe(value)
        elif isinstance(value, (list, tuple, set, frozenset, dict)):
            line[name] = str(value)
    return line
