"""A cluster on this machine: its data folder, and its nodes as processes.

::

    <data>/cluster.json     a copy of the cluster file, which the nodes read: free to be edited while they run
    <data>/secret.key       made by the first API node, unless the cluster file's own was copied
    <data>/worker-0/ ...    data directories, one per node
    <data>/logs/api-0.log   what a node says
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp
import click

from common.config import ClusterConfig, listen_address, load_config, read_file
from common.errors import ConfigRefused, DirectoryOwned, ExitError, InputOutputFailed, PortInUse
from tallyslice.ports import check_ports
from tallyslice.processes import Ended, Node, Processes
from tallyslice.questions import Questions
from tallyslice.target import default_file, node_tls, origin

FILE_NAME = "cluster.json"
START_SECONDS = 60.0  # for every node to be ready: a slow machine takes ten
PROBE_AGAIN_SECONDS = 0.1

# Nodes that leave with one of these have said what is wrong; any other early end is a defect.
_KNOWN: dict[int, type[ExitError]] = {kind.exit_code: kind for kind in (PortInUse, InputOutputFailed, DirectoryOwned)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFolder:
    """Where a cluster keeps what it has, and what its file says.

    Attributes:
        path: the data folder.
        config: what the cluster file said when it was read.
    """

    path: Path
    config: ClusterConfig

    @property
    def file(self) -> Path:
        """The cluster file that the nodes read."""
        return self.path / FILE_NAME

    @property
    def workers(self) -> list[Node]:
        """The worker nodes, in the file's order."""
        return [self._node("worker", name, url) for name, url in self.config.worker_nodes.items()]

    @property
    def api_nodes(self) -> list[Node]:
        """The API nodes, in the file's order."""
        return [self._node("api", name, url) for name, url in self.config.api_nodes.items()]

    def _node(self, kind: str, name: str, url: str) -> Node:
        # -P: a folder named "common" in the working directory must not pass for ours.
        program = (sys.executable, "-P", "-m", f"{kind}_node")
        return Node(
            name=f"{kind}-{name}",
            command=(*program, name, str(self.file), "--data", str(self.path / f"{kind}-{name}")),
            url=url,
            log=self.path / "logs" / f"{kind}-{name}.log",
        )


def open_folder(cluster_file: Path | None, data: Path | None, *, now: datetime) -> ClusterFolder:
    """Make a fresh data folder with a copy of the cluster file, or take up that of an earlier run.

    Nothing is made unless the file is good and its ports are free.

    Args:
        cluster_file: the file to copy; None: ``etc/cluster.json`` if it is there, else the one we bring along.
        data: the folder; None: ``data/run-`` and the time.
        now: local time, for that name.

    Raises:
        ConfigRefused: the cluster file cannot be used, or not on this machine.
        PortInUse: a port is taken.
        InputOutputFailed: the folder cannot be made.
        click.UsageError: the folder holds something else.
    """
    path = (data or Path("data") / f"run-{now:%Y%m%d-%H%M%S}").absolute()
    kept = path / FILE_NAME
    if kept.is_file():
        if cluster_file is not None:
            raise click.UsageError(f"{path} has a cluster file of its own: leave {cluster_file} away to go on with it")
        folder = ClusterFolder(path=path, config=load_config(kept))
        _check_ports(folder)
    else:
        source = cluster_file or default_file()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise click.UsageError(f"{path} is neither empty nor the data folder of an earlier run")
        config = load_config(source)
        _check_ports(ClusterFolder(path=path, config=config))
        _fill(path, source, config)
        folder = ClusterFolder(path=path, config=load_config(kept))
    _make(path / "logs")
    return folder


def _check_ports(folder: ClusterFolder) -> None:
    check_ports((node.name, node.url) for node in (*folder.workers, *folder.api_nodes))


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputOutputFailed(f"{path} cannot be made: {error.strerror}") from error


def _fill(path: Path, source: Path, config: ClusterConfig) -> None:
    """Copy the cluster file, and what it names relative to itself."""
    _make(path)
    folder = source.absolute().parent
    try:
        named = (config.secret_file, config.internal_token_file, config.tokens_file, *_tls_files(config))
        for file in named:
            if file is not None and file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                copy = path / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.touch(mode=0o600)  # before there is anything to read in it
                copy.write_bytes(file.read_bytes())
        # Last: with it, the folder passes for a cluster's.
        (path / FILE_NAME).write_bytes(read_file(source))
    except OSError as error:
        raise InputOutputFailed(f"{path} cannot be filled: {error.strerror}") from error


def _tls_files(config: ClusterConfig) -> set[Path]:
    """Those of all nodes."""
    names = [*(f"api-{name}" for name in config.api_nodes), *(f"worker-{name}" for name in config.worker_nodes)]
    found = [] if config.tls is None else [config.tls.of(name) for name in names]
    return {path for files in found for path in files.paths() if path is not None}


async def start_nodes(folder: ClusterFolder, processes: Processes) -> None:
    """Start every worker, then every API node; so the API nodes stop first."""
    await processes.start(folder.workers)
    await processes.start(folder.api_nodes)


async def until_ready(
    folder: ClusterFolder, processes: Processes, on_ready: Callable[[Node], None], *, stop: asyncio.Event
) -> bool:
    """Wait until every node is ready; False if told to stop before.

    Raises:
        ExitError: a node ended, or is not ready in time; it has the node's exit code, if that is one of ours.
    """
    deadline = time.monotonic() + START_SECONDS
    waiting = [*folder.workers, *folder.api_nodes]
    connector = aiohttp.TCPConnector(ssl=node_tls(folder.config) or True)
    async with aiohttp.ClientSession(connector=connector) as session:
        questions = Questions(session=session)
        while not stop.is_set():
            if processes.ended:
                raise _start_failed(processes.ended[0])
            reasons = await asyncio.gather(*(questions.unready(origin(node.url)) for node in waiting))
            answers = list(zip(waiting, reasons, strict=True))
            for node in (node for node, reason in answers if reason is None):
                on_ready(node)
            late = [(node, reason) for node, reason in answers if reason is not None]
            if not late:
                return True
            if time.monotonic() > deadline:
                lines = [f"{node.name} is not ready after {START_SECONDS:g} s: {reason}" for node, reason in late]
                raise ExitError("\n".join(lines))
            waiting = [node for node, _ in late]
            await asyncio.sleep(PROBE_AGAIN_SECONDS)
    return False


def _start_failed(ended: Ended) -> ExitError:
    node = ended.node
    if ended.code == PortInUse.exit_code:
        return PortInUse(f"port {listen_address(node.url)[1]} is in use: {node.name} cannot listen at {node.url}")
    message = f"the cluster cannot start: {ended}; its log is {node.log}"
    if ended.code == ConfigRefused.exit_code:
        return ConfigRefused([message])
    return _KNOWN.get(ended.code, ExitError)(message)
