"""The page at /docs, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from tests.support.needs import program
from tests.support.nodes import Nodes

LOOKED_AT_MILLISECONDS = 30_000  # a busy machine may need some seconds for what takes half a one


@pytest.mark.e2e
async def test_the_page_shows_the_calls_and_makes_them(tmp_path: Path) -> None:
    """It lists the calls, sends one, asks nobody but this node, and nothing goes wrong meanwhile."""
    chromium = program("chromium", package="chromium")
    async with Nodes(tmp_path, workers=1) as nodes, async_playwright() as playwright:
        base = nodes.api["0"].node.base
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            page.set_default_timeout(LOOKED_AT_MILLISECONDS)
            asked: list[str] = []
            wrong: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))

            await page.goto(f"{base}/docs")
            await page.get_by_text("operation", exact=True).first.click()
            await page.get_by_text("Whether the process runs").first.click()
            async with page.expect_response(f"{base}/livez") as answer:
                await page.get_by_role("button", name="Execute").first.click()
            shown = await (await answer.value).text()
        finally:
            await browser.close()

    assert shown == "ok\n"
    assert wrong == []
    assert {url.removeprefix(base) for url in asked if not url.startswith("data:")} == {
        "/docs", "/docs/page.css", "/docs/viewer.js", "/openapi.json", "/livez",
    }  # fmt: skip
