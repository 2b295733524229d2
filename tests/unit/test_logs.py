"""Logs: key=value lines that never quote what somebody sent."""

from __future__ import annotations

import io

from common.errors import Malformed
from common.logs import LINES_A_MINUTE_MAX, VALUE_CHARACTERS_MAX, describe, new_log, quiet_library_logger
from tests.support.events import CANARY


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - here is the place
    except BaseException as caught:  # noqa: BLE001 - to give it a way that it came
        return caught


def test_a_line_names_its_node_and_event() -> None:
    written = io.StringIO()
    log = new_log("worker-3", stream=written)

    log.info("listening", host="127.0.0.1", port=9003)
    log.debug("too_chatty")

    line = written.getvalue()
    assert line.count("\n") == 1
    assert " level=info node=worker-3 event=listening " in line
    assert line.endswith("host=127.0.0.1 port=9003\n")


def test_a_foreign_error_is_shown_without_its_message() -> None:
    """Its type and where it came from; an error of the system by its number too."""
    written = io.StringIO()
    log = new_log("api-0", stream=written)

    log.error("failed", error=raised(ValueError(f"bad name {CANARY}")))
    log.error("failed", error=raised(OSError(28, CANARY)))

    assert CANARY not in written.getvalue()
    assert "ValueError at test_logs.py" in written.getvalue().replace("unit/", "")
    assert "OSError (errno 28) at " in written.getvalue()


def test_our_own_errors_are_shown_with_their_message() -> None:
    assert describe(Malformed("is missing", field="user")) == "Malformed: is missing"


def test_an_error_that_was_never_raised_has_no_way() -> None:
    assert describe(ValueError(CANARY)) == "ValueError"


def test_collections_fit_on_a_line() -> None:
    written = io.StringIO()

    new_log("api-0", stream=written).warning("refused", reasons=("a", "b"), counts={"c": 1})

    assert written.getvalue().count("\n") == 1
    assert 'reasons="a; b"' in written.getvalue()


def test_the_librarys_log_goes_nowhere() -> None:
    """Its lines name peers and quote what they sent."""
    log = quiet_library_logger()

    assert not log.propagate
    assert [type(handler).__name__ for handler in log.handlers] == ["NullHandler"]
    assert log.manager.loggerDict.get(log.name) is None


def test_an_event_has_so_many_lines_a_minute() -> None:
    """Other events are not held up by it, and the first line of a later minute tells what is missing."""
    written, seconds = io.StringIO(), [0.0]
    log = new_log("api-0", stream=written, now=lambda: seconds[0])
    for _ in range(LINES_A_MINUTE_MAX + 5):
        log.bind(worker="0").error("request_failed")
    log.info("listening")
    first = written.getvalue()
    seconds[0] = 60.0
    log.error("request_failed")
    log.error("request_failed")

    assert first.count("event=request_failed") == LINES_A_MINUTE_MAX
    assert first.count("event=listening") == 1
    assert [line.endswith("suppressed=5") for line in written.getvalue().splitlines()[-2:]] == [True, False]


def test_a_value_has_so_many_characters() -> None:
    written = io.StringIO()

    new_log("api-0", stream=written).warning("refused", reasons=("x" * 2 * VALUE_CHARACTERS_MAX,))

    assert VALUE_CHARACTERS_MAX < len(written.getvalue()) < VALUE_CHARACTERS_MAX + 200
