"""The API of a running cluster does what its document says, whatever it is asked: fuzzed by schemathesis.

Each call gets data that is right by its schema, data that is wrong, the edges of both, and other methods. Every answer
must be one of those documented (status, media type, headers, schema), and none a server error but 503, which only a
machine that is far too busy has a reason for. The seed is fixed; ``make fuzz SEED=2 CASES=1000`` looks elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.pages import ROOT

DAY = 86400
# Times of any year may be generated: a slice for each would be a file for each.
WIDE: dict[str, Any] = {"length_of_time_slice": 36_525 * DAY, "max_future_seconds": 3 * 10**11, "event_types": "any"}


@pytest.mark.e2e
@pytest.mark.timeout(3600 if os.environ.get("CASES") else 600)  # some ten seconds where nothing else runs
async def test_whatever_is_asked(tmp_path: Path) -> None:
    """No answer that is not documented, no server error, and the log tells of no defect."""
    given = {"--seed": os.environ.get("SEED"), "--max-examples": os.environ.get("CASES")}
    options = [f"{name}={value}" for name, value in given.items() if value]
    async with Cluster(tmp_path, workers=2, **WIDE) as cluster:
        node = cluster.api["0"]
        fuzzer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(ROOT / "tests/fuzz/schemathesis.toml"),
            "run", f"{node.base}/openapi.json", "--no-color", *options,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said = (await fuzzer.communicate())[0].decode()
        metrics = (await cluster.ask("GET", f"{node.base}/metrics")).text
        logs = "".join(each.log_text() for each in cluster.nodes)

    assert fuzzer.returncode == 0, said
    assert "request_failed" not in logs
    assert "loop_failed" not in logs
    # It went through: events were counted, and refused, and nothing was a server error.
    answered = {
        (method, route, status): float(count)
        for method, route, status, count in re.findall(
            r'^tallyslice_http_requests_total\{method="(\w+)",route="([^"]+)",status="(\d+)"\} ([\d.e+]+)$',
            metrics,
            re.MULTILINE,
        )
    }
    for call in (
        ("POST", "/analytics", "202"),
        ("POST", "/analytics", "400"),
        ("POST", "/events", "202"),
        ("POST", "/events", "400"),
        ("GET", "/analytics/perworker", "200"),
    ):
        assert answered.get(call, 0) >= 5, (call, answered)
    assert {status for *_, status in answered if status >= "500"} <= {"503"}
