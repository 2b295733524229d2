"""Logs: one line per event of interest on standard error, as ``key=value`` pairs or as JSON; none per request.

Privacy comes before comfort: an exception is shown as its type and the places it went through. Its message may quote
what somebody sent, so only the messages of our own errors are shown, and these never do.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import structlog

from common.errors import TallysliceError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from typing import TextIO

Form = Literal["logfmt", "json"]
FORMS: tuple[Form, ...] = ("logfmt", "json")
Log = structlog.typing.FilteringBoundLogger
# Of one event: a burst that tells a person everything, and ten a second when something fails all the time.
LINES_A_MINUTE_MAX = 600
VALUE_CHARACTERS_MAX = 8_000  # of one value: a refused cluster file can have a reason for each of its lines
_MINUTE = 60.0
_FRAMES = 4  # the innermost ones tell where, the rest is the event loop


def new_log(
    node: str, *, form: Form = "logfmt", stream: TextIO | None = None, now: Callable[[], float] = time.monotonic
) -> Log:
    """A log whose lines name the node, such as ``api-0`` or ``worker-3``."""
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(file=stream or sys.stderr),
        processors=[
            _Rate(now),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _plain_errors,
            _FORMS[form],
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


def _as_json(_: object, __: str, line: MutableMapping[str, Any]) -> str:
    first = {key: line.pop(key) for key in _FIRST}
    return msgspec.json.encode({**first, **line}, enc_hook=str).decode()


_FIRST = ["timestamp", "level", "node", "event"]
_FORMS: dict[Form, structlog.typing.Processor] = {
    "logfmt": structlog.processors.LogfmtRenderer(key_order=_FIRST, bool_as_flag=False),
    "json": _as_json,
}


class _Rate:
    """Lets so many lines of an event pass in a minute; the first one of a later minute tells how many it kept back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Events are our own words, so there are only so many. Event -> when its minute began, lines since then.
        self._events: dict[object, tuple[float, int]] = {}

    def __call__(self, _: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        now = self._now()
        began, lines = self._events.get(line.get("event"), (now, 0))
        if now - began >= _MINUTE:
            if lines > LINES_A_MINUTE_MAX:
                line["suppressed"] = lines - LINES_A_MINUTE_MAX
            began, lines = now, 0
        self._events[line.get("event")] = began, lines + 1
        if lines >= LINES_A_MINUTE_MAX:
            raise structlog.DropEvent
        return line


def _plain_errors(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in line.items():
        if isinstance(value, BaseException):
            line[name] = _short(describe(value))
        elif isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
            line[name] = _short("; ".join(value))
        elif isinstance(value, (str, list, tuple, set, frozenset, dict)):
            line[name] = _short(str(value))
    return line


def _short(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."
