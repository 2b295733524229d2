"""What was measured on: machine, system, versions."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.servers import ROOT

PACKAGES = [
    "aiohttp",
    "uvloop",
    "msgspec",
    "lmdb",
    "redis",
    "hiredis",
    "asyncpg",
    "chdb",
    "chdb-core",
]


def described(data: Path) -> Iterator[tuple[str, str]]:
    """What a reader must know, as pairs of title and text.

    Args:
        data: the folder that everything was kept in.
    """
    yield "processor", f"{_processor()}, {os.cpu_count()} cores"
    yield "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB"
    yield "data folder", _disk(data)
    yield "system", f"{_release()}, Linux {platform.release()}"
    yield "Python", f"{platform.python_version()}; " + ", ".join(_packages())
    yield "Redis", _said(["redis-server", "--version"])
    yield "PostgreSQL", _said(["/usr/lib/postgresql/15/bin/postgres", "--version"])


def fsync_seconds(data: Path, *, times: int = 50) -> float:
    """How long the disk takes for 4 KiB, in the median: what every durable answer waits for."""
    path = data / "fsync"
    taken = []
    with path.open("wb") as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(taken)


def commit() -> str:
    """The commit of the tree; with a star if something is changed."""
    name = _said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown"
    return name + ("*" if _said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]) else "")


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _release() -> str:
    text = Path("/etc/os-release").read_text()
    found = re.search(r'^PRETTY_NAME="(.*)"$', text, re.MULTILINE)
    return found[1] if found else platform.system()


def _disk(folder: Path) -> str:
    mounts = [line.split()[:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    _, _, kind = max(inside, key=lambda mount: len(mount[1]))
    return f"{kind}; writing 4 KiB and fdatasync take {fsync_seconds(folder) * 1000:.2f} ms"


def _packages() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - ours
    except (OSError, subprocess.CalledProcessError):
        return ""
