"""What the numbers must show, and whether they do. Pure.

Most goals are ratios of medians that were measured in alternating rounds of one run: they mean the same on a slow
machine and on a fast one. The few that are absolute say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.journal import Results
from bench.numbers import short

EVENTS, REQUESTS = "events_per_second", "requests_per_second"
Look = Callable[[Results], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One goal.

    Attributes:
        work: the line of the table that it belongs to.
        text: what is compared.
        bound: the least it may be; the most, if ``at_most``.
        at_most: whether less is better.
        unit: of the number; empty: a ratio.
        look: finds the number; None if it was not measured.
    """

    work: str
    text: str
    bound: float
    at_most: bool = False
    unit: str = ""
    look: Look

    def met(self, value: float) -> bool:
        """Whether the number is good enough."""
        return value <= self.bound if self.at_most else value >= self.bound

    def wanted(self) -> str:
        """The bound, in words."""
        return f"{'at most' if self.at_most else 'at least'} {short(self.bound)}{self.unit or 'x'}"


def verdict(goal: Goal, results: Results) -> tuple[str, str]:
    """The number as it is written, and "met", "not met" or "not measured"."""
    value = goal.look(results)
    if value is None:
        return "", "not measured"
    return f"{short(value)}{goal.unit or 'x'}", "met" if goal.met(value) else "**not met**"


def _median(group: str, row: str, case: str, value: str) -> Look:
    def look(results: Results) -> float | None:
        spread = results.of(group, row, case, value)
        return None if spread is None else spread.median

    return look


def _ratio(over: Look, under: Look) -> Look:
    def look(results: Results) -> float | None:
        one, other = over(results), under(results)
        return None if one is None or not other else one / other

    return look


def _bulk(row: str, case: str) -> Look:
    return _median("bulk", row, case, EVENTS)


def _single(row: str) -> Look:
    return _median("single", row, "1", EVENTS)


def _growth(row: str, case: str, value: str) -> Look:
    return _median("growth", row, case, value)


def _api_bytes_per_user(results: Results) -> float | None:
    at = {users: _growth("size", str(users), "api_private_mb")(results) for users in (10**6, 10**7)}
    few, many = at[10**6], at[10**7]
    return None if few is None or many is None else max(0.0, many - few) * 1e6 / (10**7 - 10**6)


def _worker_mib(results: Results) -> float | None:
    found = _growth("size", "10000000", "worker_private_mb")(results)
    return None if found is None else found * 1e6 / (1 << 20)


US = "tallyslice"
_BULK_1, _BULK_10 = "bulk, 1,000 a request", "bulk, 10,000 a request"
_SINGLE, _QUESTIONS, _GROWTH, _IDLE = "one event per request", "GET /analytics", "growth", "idle"

GOALS = [
    Goal(
        work=_BULK_1,
        text="Redis + Lua per event, AOF everysec",
        bound=2.5,
        look=_ratio(_bulk(US, "1000"), _bulk("redis-lua-everysec", "1")),
    ),
    Goal(
        work=_BULK_1,
        text="strong Redis form, AOF always",
        bound=1.0,
        look=_ratio(_bulk(US, "1000"), _bulk("redis-bulk-always", "1000")),
    ),
    Goal(work=_BULK_1, text="chdb", bound=2, look=_ratio(_bulk(US, "1000"), _bulk("clickhouse", "1000"))),
    Goal(
        work=_BULK_1,
        text="pure single-process pipeline",
        bound=1.0,
        look=_ratio(_bulk(US, "1000"), _bulk("pipeline", "1000")),
    ),
    Goal(work=_BULK_10, text="chdb", bound=1.3, look=_ratio(_bulk(US, "10000"), _bulk("clickhouse", "10000"))),
    Goal(
        work=_BULK_10,
        text="Redis + Lua per event, AOF everysec",
        bound=3,
        look=_ratio(_bulk(US, "10000"), _bulk("redis-lua-everysec", "1")),
    ),
    Goal(work=_SINGLE, text="empty handler", bound=0.7, look=_ratio(_single(US), _single("empty"))),
    Goal(
        work=_SINGLE,
        text="aiohttp + Redis, AOF everysec",
        bound=1.6,
        look=_ratio(_single(US), _single("redis-single-everysec")),
    ),
    Goal(work=_SINGLE, text="aiohttp + PostgreSQL", bound=5, look=_ratio(_single(US), _single("postgres"))),
    Goal(
        work=_QUESTIONS,
        text="p99 while bulk is written at half the maximum",
        bound=10,
        at_most=True,
        unit=" ms",
        look=_median("questions", US, "under bulk", "p99_ms"),
    ),
    Goal(
        work=_QUESTIONS,
        text="p99 while single events are written at half the maximum",
        bound=10,
        at_most=True,
        unit=" ms",
        look=_median("questions", US, "under single", "p99_ms"),
    ),
    Goal(
        work=_QUESTIONS,
        text="idle: the rate of the empty handler",
        bound=0.8,
        look=_ratio(
            _median("questions", US, "idle", REQUESTS),
            _median("questions", "empty", "idle", REQUESTS),
        ),
    ),
    Goal(
        work=_QUESTIONS,
        text="faster than uniqExact over 2 million rows",
        bound=100,
        look=_ratio(
            _median("questions", "clickhouse", "2 million", "median_ms"),
            _median("questions", US, "2 million", "median_ms"),
        ),
    ),
    Goal(
        work=_GROWTH,
        text="throughput with 10^7 users to that with 10^5, 5 % new",
        bound=0.5,
        look=_ratio(_growth("5 % new", "10000000", EVENTS), _growth("5 % new", "100000", EVENTS)),
    ),
    Goal(
        work=_GROWTH,
        text="live pages, with 10^7 users",
        bound=26,
        at_most=True,
        unit=" bytes a user",
        look=_growth("size", "10000000", "live_bytes_per_user"),
    ),
    Goal(
        work=_GROWTH,
        text="file to live pages, with 10^7 users",
        bound=3,
        at_most=True,
        look=_growth("size", "10000000", "file_per_live"),
    ),
    Goal(
        work=_GROWTH,
        text="API node's own memory, for each user from 10^6 to 10^7 (a key has 16 bytes)",
        bound=4,
        at_most=True,
        unit=" bytes",
        look=_api_bytes_per_user,
    ),
    Goal(
        work=_GROWTH,
        # Recent keys: 64 MiB. Pages that one commit has touched: 512 MiB, then LMDB writes them out. The rest: 64 MiB.
        text="worker's own memory with 10^7 users: recent keys, pages of one commit, the rest",
        bound=640,
        at_most=True,
        unit=" MiB",
        look=_worker_mib,
    ),
    Goal(
        work=_IDLE,
        text="resident, API node + worker",
        bound=120,
        at_most=True,
        unit=" MB",
        look=_median("idle", US, "start", "resident_mb"),
    ),
    Goal(
        work=_IDLE,
        text="first answer after the start",
        bound=2,
        at_most=True,
        unit=" s",
        look=_median("idle", US, "start", "first_answer_seconds"),
    ),
    Goal(
        work="ids",
        text="bulk of 1,000 with an id on every event to that without",
        bound=0.5,
        look=_ratio(_bulk(US, "1000 with ids"), _bulk(US, "1000")),
    ),
]
