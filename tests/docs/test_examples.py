"""Every example of the documentation is run against a cluster of its own, and prints what the page says.

The nodes listen elsewhere than the pages say: addresses are replaced on the way in and on the way out.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.pages import PAGES, ROOT, Block, Example, blocks, examples

pytestmark = pytest.mark.e2e

COMMAND_SECONDS = 30.0
PATIENCE_SECONDS = 10.0
CHANGES = re.compile(r"-X POST|-d |sed -i|>")
EXAMPLE_FILE = ROOT / "etc/cluster.json"
CURL = ROOT / "tests/support/curl.py"

# What the examples of a page talk to. All others talk to the cluster that docs/configuration.md shows.
FILES = {"README.md": EXAMPLE_FILE}

API = {"8000": "0", "8001": "1"}
WORKERS = {"9000": "0", "9001": "1", "9002": "2", "9003": "3"}


def shown_file() -> Block:
    """The cluster file that docs/configuration.md shows."""
    return next(block for block in blocks(ROOT / "docs/configuration.md") if block.language == "json5")


def addresses(cluster: Cluster) -> dict[str, str]:
    """Where the pages say that a node listens -> where it does."""
    nodes = {port: cluster.api[node] for port, node in API.items()}
    nodes |= {port: cluster.worker[node] for port, node in WORKERS.items()}
    return {f"localhost:{port}": f"127.0.0.1:{node.port}" for port, node in nodes.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Runs the examples: in a folder of their own, with ``tallyslice`` and ``curl`` at hand."""

    folder: Path
    addresses: Mapping[str, str]

    async def run(self, example: Example) -> str:
        """What the command prints on either output, with the addresses of the page."""
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", self.there(example.command),
            cwd=self.folder,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return self.back(output.decode().replace("\r\n", "\n"))

    def there(self, text: str) -> str:
        """With the real addresses."""
        for shown, real in self.addresses.items():
            text = text.replace(shown, real)
        return text

    def back(self, text: str) -> str:
        """With the addresses of the page."""
        for shown, real in self.addresses.items():
            text = text.replace(real, shown)
        return text

    def _environment(self) -> dict[str, str]:
        programs = self.folder / "bin"
        if not programs.exists():
            programs.mkdir()
            if shutil.which("curl") is None:
                (programs / "curl").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{CURL}" "$@"\n')
                (programs / "curl").chmod(0o755)
            # As on a terminal, where curl shows no progress.
            (self.folder / ".curlrc").write_text("silent\nshow-error\n")
        path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {**os.environ, "PATH": os.pathsep.join(path), "HOME": str(self.folder), "COLUMNS": "120"}


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.name))
async def test_the_examples_of_a_page(page: Path, tmp_path: Path) -> None:
    """Run in their order, the examples of a page print what it says."""
    content = FILES[page.name].read_text() if page.name in FILES else shown_file().text
    shutil.copytree(EXAMPLE_FILE.parent, tmp_path / "etc", ignore=shutil.ignore_patterns("*.key"))
    cluster = Cluster(tmp_path, apis=len(API), workers=len(WORKERS), start=False)
    shell = Shell(folder=tmp_path, addresses=addresses(cluster))
    cluster.write_in_place(shell.there(content).encode())
    async with cluster:
        await cluster.start(*cluster.nodes)
        wrong = [found for example in examples(page) if (found := await what_is_wrong(shell, example))]

    assert not wrong, "\n".join(f"{page.name}:{found}" for found in wrong)


async def what_is_wrong(shell: Shell, example: Example) -> str | None:
    """What the command prints if it is not what the page says.

    A question is asked again for a while: on a busy machine the cluster may be slower than the page's reader.
    """
    deadline = time.monotonic() + (0 if CHANGES.search(example.command) else PATIENCE_SECONDS)
    while True:
        output = await shell.run(example)
        if example.agrees(output):
            return None
        if time.monotonic() >= deadline:
            return f"{example.line}\n$ {example.command}{output}"
