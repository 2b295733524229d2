"""A process of an API node: when it listens, and that it does not any more once it is to leave."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from api_node.share import LEAVE, READY, Share, serve_share
from common.logs import new_log
from common.web import Health
from tests.support.patience import eventually

NOT_SECONDS = 0.3  # for what must not happen: several looks at whether the process is ready


class Parent:
    """What a process has from its parent, and its ends of that; the process is a task here."""

    def __init__(self, folder: Path, *, replaces: bool) -> None:
        self.problem: str | None = "not yet"
        self.stop = asyncio.Event()
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.answers = asyncio.Event()
        self.written = io.StringIO()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.line, theirs = socket.socketpair()
        self.line.setblocking(False)  # noqa: FBT003 - the library's
        self.share = Share(
            process=0,
            processes=1,
            listeners=(self.listener.dup().detach(),),
            line=theirs.detach(),
            folder=str(folder),
            replaces=replaces,
        )

    def start(self) -> asyncio.Task[None]:
        app = web.Application()
        app.router.add_get("/", self.answer)
        serving = serve_share(
            app,
            share=self.share,
            health=Health(reasons=[lambda: self.problem]),
            log=new_log("api-0", stream=self.written),
            stop=self.stop,
            adopt=self.adopt,
        )
        return asyncio.create_task(serving)

    async def adopt(self) -> None:
        pass

    async def answer(self, _: web.Request) -> web.Response:
        self.asked.put_nowait(None)
        await self.answers.wait()
        return web.Response()

    async def wrote(self, event: str) -> None:
        async def check() -> None:
            assert f"event={event}" in self.written.getvalue()

        await eventually(check)

    async def said(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.line, 1)

    async def ask(self) -> int:
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status

    @property
    def draft(self) -> Path:
        """Where a process listens until it has its place."""
        return self.share.door(0).with_suffix(f".{os.getpid()}")

    async def ask_at(self, path: Path) -> int:
        async def check() -> None:
            assert path.exists()

        await eventually(check)
        connector = aiohttp.UnixConnector(path=str(path))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://process-0/") as answer:
            return answer.status

    def close(self) -> None:
        self.listener.close()
        self.line.close()


async def test_a_replacement_accepts_connections_once_it_is_ready(tmp_path: Path) -> None:
    parent = Parent(tmp_path, replaces=True)
    parent.answers.set()
    process, asked = parent.start(), asyncio.create_task(parent.ask())

    parent.problem = None

    assert (await parent.said(), await asked) == (READY, 200)
    parent.line.send(LEAVE)
    await process
    parent.close()


async def test_a_replacement_that_is_to_leave_before_it_is_ready_accepts_nothing(tmp_path: Path) -> None:
    """Also if it becomes ready while it leaves: who waits at its socket, waits for the process that stays.

    That one is still asked at its own door, too.
    """
    parent = Parent(tmp_path, replaces=True)
    parent.share.door(0).touch()  # as if the process that stays listened there
    process, lingers = parent.start(), asyncio.create_task(parent.ask_at(parent.draft))
    await parent.asked.get()
    parent.line.send(LEAVE)
    await parent.wrote("draining")
    waits = asyncio.create_task(parent.ask())

    parent.problem = None

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(parent.asked.get(), NOT_SECONDS)
    waits.cancel()
    parent.answers.set()
    await process
    assert (await lingers, await parent.said()) == (200, b"")
    assert "event=listening" not in parent.written.getvalue()
    assert list(parent.share.door(0).parent.iterdir()) == [parent.share.door(0)]
    parent.close()
