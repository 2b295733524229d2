"""The proxies of ``deploy/``, before the API nodes of a test's cluster: their files as they are but for what differs.

That is: addresses and ports, where log and process id go, and that without root there is no change of user.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.cluster import LEASH
from tests.support.needs import program
from tests.support.pages import ROOT
from tests.support.patience import eventually
from tests.support.ports import PORTS

SHOWN = ("127.0.0.1:8000", "127.0.0.1:8001")
"""Where the files say that the API nodes are."""


class Front:
    """An async context manager: the proxy answers inside.

    Args:
        name: ``haproxy`` or ``nginx``.
        ports: of the two API nodes that it is before.
        folder: for what it writes.
    """

    def __init__(self, name: str, ports: Sequence[int], folder: Path) -> None:
        self.name = name
        self._ports = ports
        self._program = program(name, package=name)
        self._folder = folder / name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it says."""
        return self._folder / "log"

    @property
    def logged(self) -> str:
        """All that it wrote, wherever."""
        return "".join(path.read_text() for path in (self.log, *self._folder.glob("*.log")) if path.exists())

    async def __aenter__(self) -> Self:
        self.port = PORTS.take()
        self._folder.mkdir(exist_ok=True)
        file = self._write()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*LEASH, self._program, *self._arguments(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        await eventually(self._answers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._process is not None
        if error is not None:
            error.add_note(f"--- {self.name}\n{self.logged[-4000:]}")
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        PORTS.give_back(self.port)

    async def _answers(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, self.logged
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", self.port)) == 0

    def _arguments(self, file: Path) -> list[str]:
        if self.name == "haproxy":
            return ["-db", "-f", str(file)]
        # In the foreground, and as one process: its children would outlive it when it is killed.
        return ["-c", str(file), "-p", str(self._folder), "-g", "daemon off; master_process off;"]

    def _write(self) -> Path:
        shown = next((ROOT / "deploy" / self.name).glob(f"{self.name}.c*"))
        text = shown.read_text()
        for pattern, here in self._differs().items():
            text, times = re.subn(pattern, here, text, flags=re.MULTILINE)
            assert times, f"{shown.name} has no {pattern}"
        file = self._folder / shown.name
        file.write_text(text)
        return file

    def _differs(self) -> dict[str, str]:
        """What of the file is another thing here."""
        nodes = {re.escape(shown): f"127.0.0.1:{port}" for shown, port in zip(SHOWN, self._ports, strict=True)}
        if self.name == "haproxy":
            user = {} if os.geteuid() == 0 else {r"^ +(user|group|chroot) .*\n": ""}
            return nodes | user | {r"bind :8080$": f"bind 127.0.0.1:{self.port}"}
        return nodes | {
            r"listen 8080;": f"listen 127.0.0.1:{self.port};",
            r"/run/nginx\.pid": str(self._folder / "pid"),
            r"/var/log/nginx": str(self._folder),
        }
