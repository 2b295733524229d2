"""What deploy/ has for Prometheus and Grafana: Debian's Prometheus asks a live cluster, and there is an answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import yaml

from tests.support.cluster import FIRST, Cluster
from tests.support.events import CANARY, Post, user
from tests.support.needs import program
from tests.support.pages import ROOT
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = pytest.mark.e2e

DEPLOY = ROOT / "deploy"
EVERY = "500ms"
RATE_INTERVAL = "20s"  # what Grafana makes of $__rate_interval, here some forty scrapes


class Prometheus:
    """Debian's, which scrapes a cluster by the configuration and the rules of deploy/."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        self._cluster = cluster
        self._base = f"http://127.0.0.1:{port}"

    async def ready(self) -> None:
        """Wait until it serves."""

        async def check() -> None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                assert (await self._cluster.ask("GET", f"{self._base}/-/ready")).status == 200
                return
            raise AssertionError

        await eventually(check, seconds=60)

    async def get(self, path: str) -> Any:
        """What its API answers."""
        answer = await self._cluster.ask("GET", f"{self._base}/api/v1/{path}")
        assert answer.status == 200, answer
        return answer.json["data"]

    async def values(self, query: str) -> list[float]:
        """What there is right now, without what is no number."""
        found = await self.get(f"query?query={quote(query, safe='')}")
        return [value for one in found["result"] if not math.isnan(value := float(one["value"][1]))]


@contextmanager
def prometheus(cluster: Cluster, folder: Path) -> Iterator[Prometheus]:
    """It runs inside."""
    folder.mkdir()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    nodes = {"tallyslice-api": cluster.api, "tallyslice-worker": cluster.worker}
    for job in config["scrape_configs"]:
        job.pop("scrape_timeout", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{node.port}" for node in nodes[job["job_name"]].values()]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = PORTS.take()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus", package="prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield Prometheus(cluster, port)
        finally:
            process.terminate()
            process.wait(30)
            PORTS.give_back(port)


@asynccontextmanager
async def some_load(cluster: Cluster) -> AsyncIterator[None]:
    """A little of everything, for as long as it is inside; what is answered is not looked at."""
    numbers = itertools.count()

    async def ask(api: str) -> None:
        for number in numbers:
            post = Post(at=FIRST, user=user(number))
            lines = json.dumps({"timestamp": FIRST, "user": user(number), "event": "impression"}) + "\n"
            kind = {"Content-Type": "application/x-ndjson"}
            base = cluster.api[api].base
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                await cluster.post(post.query, api=api, seconds=5)
                await cluster.ask("POST", f"{base}/events", body=lines * 20, headers=kind, seconds=5)
                await cluster.post(f"timestamp=never&user={user(number)}&click", api=api, seconds=5)
                await cluster.get(f"?timestamp={FIRST}", api=api, seconds=5)
                await cluster.get(f"?timestamp={FIRST}", api=api, seconds=5)
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(ask(api)) for api in cluster.api for _ in range(2)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def panel_queries() -> dict[tuple[str, str], str]:
    """Each query of the dashboard, by its panel and letter, with what Grafana would put into it."""
    dashboard = json.loads((DEPLOY / "grafana/dashboards/tallyslice.json").read_text())
    return {
        (panel["title"], target["refId"]): target["expr"]
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$job", ".*")
        .replace("$instance", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


async def test_every_panel_and_every_rule_has_data(tmp_path: Path) -> None:
    """Prometheus scrapes both node types, several processes too, and knows of a worker that was away for a while.

    What the nodes show follows Prometheus' rules, and names no user.
    """
    promtool = program("promtool", package="prometheus")
    (folder := tmp_path / "cluster").mkdir()
    async with Cluster(folder, apis=2, workers=2, start=False, cache_ttl_seconds=0.2) as cluster:
        cluster.api["1"].options = ("--processes", "2")
        with prometheus(cluster, tmp_path / "prometheus") as server:
            await cluster.start(*cluster.nodes)
            await server.ready()
            async with some_load(cluster):
                cluster.worker["1"].kill()

                async def spooled() -> None:
                    assert await server.values("sum(tallyslice_spool_events) > 0")

                await eventually(spooled, seconds=60)
                await cluster.start(cluster.worker["1"])

                async def delivered() -> None:
                    assert await server.values("sum(tallyslice_spool_events) == 0")

                await eventually(delivered, seconds=60)

                async def answered() -> None:
                    queries = panel_queries()
                    found = [await server.values(query) for query in queries.values()]
                    assert [name for name, values in zip(queries, found, strict=True) if not values] == []

                await eventually(answered, seconds=60)
                groups = (await server.get("rules"))["groups"]

                async def recorded() -> None:
                    rules = [rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "recording"]
                    assert [name for name in rules if not await server.values(name)] == []

                await eventually(recorded, seconds=60)
                targets = (await server.get("targets"))["activeTargets"]
                firing = [alert for alert in (await server.get("alerts"))["alerts"] if alert["state"] == "firing"]
            texts = [(await cluster.ask("GET", f"{node.base}/metrics")).body for node in cluster.nodes]

    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}, groups
    assert {target["health"] for target in targets} == {"up"}
    assert firing == []
    assert not any(CANARY.encode() in text for text in texts)
    for text in texts:
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
