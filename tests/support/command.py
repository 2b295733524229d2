"""The command ``tallyslice`` as people run it: a process of its own, with what it says on either output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.events import CANARY

PROGRAM = Path(sys.executable).with_name("tallyslice")
COMMAND_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command left with, and said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


async def tallyslice(
    *arguments: object, stdin: bytes | None = None, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> Said:
    """Run the command to its end. Nothing of what it says may name a user, or be a traceback."""
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    said = Said(code=process.returncode, out=out.decode(), err=err.decode())
    assert CANARY not in said.out + said.err, said
    assert "Traceback" not in said.err, said
    return said
