"""Takes the pictures of the dashboard in docs/images: a cluster of its own, fed with a made-up day, seen by Chromium.

``.venv/bin/python scripts/screenshots.py``; it needs Chromium (``apt-get install chromium``), and takes a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import Browser, Page, async_playwright

ROOT = Path(__file__).resolve().parent.parent
SLICE_SECONDS = 3600
HOURS = 30
CHROMIUM_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PICTURES: dict[str, dict[str, Any]] = {
    "dashboard-light": {"viewport": {"width": 1240, "height": 900}, "color_scheme": "light"},
    "dashboard-dark": {"viewport": {"width": 1240, "height": 900}, "color_scheme": "dark"},
    "dashboard-phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def write_cluster(folder: Path) -> tuple[Path, str]:
    """A cluster file of an API node and four workers, and where the API node is."""
    api, *workers = free_ports(5)
    now = time.time()
    first = now - now % SLICE_SECONDS - HOURS * SLICE_SECONDS
    file = folder / "cluster.json"
    file.write_text(
        json.dumps(
            {
                "api-nodes": {"0": f"http://127.0.0.1:{api}/analytics"},
                "worker-nodes": {str(at): f"http://127.0.0.1:{port}/worker" for at, port in enumerate(workers)},
                "length-of-time-slice": SLICE_SECONDS,
                "first-slice": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(first)),
                "routing": [{"slice": 0, "nodes": ["0", "1"]}, {"slice": 18, "nodes": ["0", "1", "2", "3"]}],
                "event-types": "any",
            }
        )
    )
    return file, f"http://127.0.0.1:{api}"


def events_of(count: int, span: tuple[float, float], dice: random.Random) -> list[dict[str, Any]]:
    """Events of one hour, of people some of whom come often."""
    kinds = ("impression",) * 12 + ("click",) * 5 + ("search",) * 2 + ("signup", "purchase")
    return [
        {
            "timestamp": round(dice.uniform(*span), 3),
            "user": f"user-{int(dice.paretovariate(0.9) * 40) % 9000}",
            "event": dice.choice(kinds),
        }
        for _ in range(count)
    ]


async def send(session: aiohttp.ClientSession, base: str, events: list[dict[str, Any]]) -> None:
    """Count events."""
    async with session.post(f"{base}/events", json=events) as answer:
        answer.raise_for_status()


async def feed_day(session: aiohttp.ClientSession, base: str, dice: random.Random) -> None:
    """A day that is busy in the afternoon and quiet at night, and an hour of it that has just begun."""
    now = time.time()
    hour_began = now - now % SLICE_SECONDS
    for back in range(HOURS - 1, -1, -1):
        begun = hour_began - back * SLICE_SECONDS
        ended = min(begun + SLICE_SECONDS - 1, now)
        wave = 1.15 + math.sin((5 - back) / 24 * 2 * math.pi)
        count = int(5200 * wave * (ended - begun) / SLICE_SECONDS * dice.uniform(0.9, 1.1))
        await send(session, base, events_of(count, (begun, ended), dice))


async def feed_on(session: aiohttp.ClientSession, base: str, dice: random.Random) -> None:
    """Go on with what a busy minute has."""
    while True:
        now = time.time()
        count = int(dice.gauss(6, 2))
        if count > 0:
            await send(session, base, events_of(count, (now - 0.25, now), dice))
        await asyncio.sleep(0.25)


async def picture(browser: Browser, base: str, path: Path, seconds: float, how: dict[str, Any]) -> None:
    """Look at the page for a while, then take its picture: whole, or on a phone what fits on it."""
    page: Page = await browser.new_page(locale="en-GB", **how)
    await page.goto(base)
    await page.wait_for_selector("#status[data-state=live]")
    await asyncio.sleep(seconds)
    await page.screenshot(path=path, full_page="phone" not in path.name)
    await page.close()


async def take(folder: Path, target: Path, *, seconds: float) -> None:
    """Start the cluster, feed it, and take all pictures at once."""
    file, base = write_cluster(folder)
    command = [sys.executable, "-m", "tallyslice", "up", str(file), "--data", str(folder / "data")]
    with (folder / "up.log").open("wb") as log:
        cluster = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, cwd=ROOT)
    try:
        async with aiohttp.ClientSession() as session, async_playwright() as player:
            await ready(session, base)
            dice = random.Random(7)  # noqa: S311 - random users, not random secrets
            await feed_day(session, base, dice)
            feeding = asyncio.create_task(feed_on(session, base, dice))
            chromium = shutil.which("chromium")
            browser = await player.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
            pictures = (picture(browser, base, target / f"{name}.png", seconds, how) for name, how in PICTURES.items())
            await asyncio.gather(*pictures)
            feeding.cancel()
            await browser.close()
    finally:
        cluster.terminate()
        await cluster.wait()


async def ready(session: aiohttp.ClientSession, base: str) -> None:
    """Wait until the API node is."""
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(f"{base}/readyz") as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Take the pictures of the dashboard.")
    parser.add_argument("--into", type=Path, default=ROOT / "docs/images", help="a folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="to look before each picture (default: %(default)g)")
    arguments = parser.parse_args()
    arguments.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(take(Path(folder), arguments.into, seconds=arguments.seconds))


if __name__ == "__main__":
    main()
