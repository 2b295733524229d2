"""Tokens and their file, with real processes: each process of a node follows it, and the node answers as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, Answer, Cluster
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e
PROCESSES = 2


def token(folder: Path, *arguments: str) -> str:
    """What the command says."""
    command = [sys.executable, "-m", "tallyslice", "token", *arguments, f"--file={folder / 'tokens.json'}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def bearer(text: str) -> dict[str, str]:
    """The header that shows it."""
    return {"Authorization": f"Bearer {text}"}


async def test_tokens_are_made_and_revoked_while_all_processes_serve(tmp_path: Path) -> None:
    """A new token is good within moments in each process, a revoked one is not; no log or file has it."""
    admin = token(tmp_path, "new", "prometheus", "--scope=read")
    async with Cluster(tmp_path, workers=1, start=False, tokens_file="tokens.json") as cluster:
        cluster.api["0"].options = ("--processes", str(PROCESSES))
        await cluster.start(*cluster.nodes)

        async def known(count: int) -> None:
            text = (await cluster.ask("GET", f"{cluster.api['0'].base}/metrics", headers=bearer(admin))).text
            for process in range(PROCESSES):
                assert f'tallyslice_tokens{{process="{process}"}} {float(count)}' in text, text

        async def post(text: str) -> Answer:
            return await cluster.post(f"timestamp={FIRST}&user=ada&click", headers=bearer(text))

        await eventually(lambda: known(1))
        shop = token(tmp_path, "new", "shop", "--scope=write")
        await eventually(lambda: known(2))
        taken = [await post(shop) for _ in range(8)]
        token(tmp_path, "revoke", "shop")
        await eventually(lambda: known(1))
        refused = [await post(shop) for _ in range(8)]

        async def counted() -> None:
            answer = await cluster.get(f"?timestamp={FIRST}&format=json", headers=bearer(admin))
            assert answer.json["clicks"] == len(taken)

        await eventually(counted)  # another process may answer from memory for a moment

    assert {answer.status for answer in taken} == {202}
    assert {answer.status for answer in refused} == {401}
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if shop.encode() in path.read_bytes() or admin.encode() in path.read_bytes()]


async def test_a_node_without_its_tokens_file_does_not_start(tmp_path: Path) -> None:
    """It would let nobody in, or everybody: exit code 78, and how to make one."""
    async with Cluster(tmp_path, workers=1, start=False, tokens_file="tokens.json") as cluster:
        node = cluster.api["0"]
        node.launch()

        assert await node.exited() == 78
        assert 'make one with "tallyslice token new"' in node.log_text()
