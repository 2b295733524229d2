"""Debian's Chromium, driven by playwright: pages that ask nobody but the node, and complain of nothing."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from tests.support import needs
from tests.support.pages import ROOT

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = ROOT / "tests/vendor/axe-core/axe.min.js"
PHONE = {"width": 360, "height": 740}


class Chromium:
    """An async context manager: one browser, for many visits."""

    def __init__(self) -> None:
        self._life = AsyncExitStack()
        self._browser: Browser | None = None

    async def __aenter__(self) -> Self:
        program = needs.program("chromium", package="chromium")
        player = await self._life.enter_async_context(async_playwright())
        self._browser = await player.chromium.launch(executable_path=program, args=ARGUMENTS)
        self._life.push_async_callback(self._browser.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._life.aclose()

    def visit(self, base: str, **how: Any) -> Visit:
        """A visit to a node's page, by somebody who was never there."""
        assert self._browser is not None
        return Visit(self._browser, base, how)


class Visit:
    """An async context manager. Left without a failure, it finds that nobody else was asked, and no error was told.

    Attributes:
        page: the page.
        asked: URLs of all requests.
        told: errors and warnings of the console, and what was thrown.
        expected: parts of those that a test provokes.
    """

    def __init__(self, browser: Browser, base: str, how: dict[str, Any]) -> None:
        self.asked: list[str] = []
        self.told: list[str] = []
        self.expected: tuple[str, ...] = ()
        self._browser = browser
        self._base = base
        self._how = how
        self._context: BrowserContext | None = None
        self._page: Page | None = None

    @property
    def page(self) -> Page:
        """The page."""
        assert self._page is not None
        return self._page

    async def __aenter__(self) -> Self:
        self._context = await self._browser.new_context(locale="en-GB", timezone_id="UTC", **self._how)
        self._context.set_default_timeout(30_000)
        self._page = await self._context.new_page()
        self._page.on("request", self._note_request)
        self._page.on("console", self._note_console)
        self._page.on("pageerror", lambda error: self.told.append(str(error)))
        await self._page.goto(self._base)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._context is not None
        await self._context.close()
        if error is None:
            assert [url for url in self.asked if not url.startswith(f"{self._base}/")] == []
            assert [text for text in self.told if not any(part in text for part in self.expected)] == []

    def _note_request(self, request: Request) -> None:
        self.asked.append(request.url)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.told.append(message.text)

    async def live(self) -> None:
        """Wait until figures are shown."""
        await self.page.locator('#status[data-state="live"]').wait_for()
        await self.page.locator("#figures").wait_for()

    async def text(self, selector: str) -> str:
        """What stands there."""
        return (await self.page.locator(selector).inner_text()).strip()

    async def violations(self) -> list[str]:
        """What axe finds wrong with the page as it is, by rule and element."""
        # Evaluated, not added as a script: the page's policy would not let it in.
        await self.page.evaluate(AXE.read_text())
        found = json.loads(await self.page.evaluate("axe.run().then((found) => JSON.stringify(found.violations))"))
        return [f"{rule['id']}: {node['html'][:150]}" for rule in found for node in rule["nodes"]]
