"""What ``tallyslice up`` does before the first node starts: the data folder and the ports."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
import pytest

from common.config import load_config
from common.errors import ConfigRefused, PortInUse
from common.routing import RoutingEntry, WorkerId
from common.slices import SliceId
from tallyslice.cluster import open_folder
from tallyslice.ports import check_ports
from tallyslice.target import DEFAULT_FILE, OWN_FILE
from tallyslice.up import without_entry
from tests.support.pages import ROOT
from tests.support.ports import PORTS

NOON = datetime.fromisoformat("2017-05-20T12:00:00+00:00")


@pytest.fixture
def ports() -> Iterator[list[int]]:
    held = [PORTS.take() for _ in range(2)]
    yield held
    for port in held:
        PORTS.give_back(port)


@pytest.fixture
def cluster_file(tmp_path: Path, ports: list[int]) -> Path:
    """A cluster of two nodes, in a folder of its own."""
    file = tmp_path / "etc" / "any.json"
    file.parent.mkdir()
    config = {
        "api-nodes": {"0": f"http://127.0.0.1:{ports[0]}/analytics"},
        "worker-nodes": {"a": f"http://127.0.0.1:{ports[1]}/worker"},
        "length-of-time-slice": 60,
        "first-slice": "system",
        "routing": [{"slice": 0, "nodes": ["a"]}],
    }
    file.write_text(json.dumps(config))
    return file


@pytest.fixture
def listening(ports: list[int]) -> Iterator[int]:
    """Somebody listens where the worker should."""
    with socket.create_server(("127.0.0.1", ports[1])):
        yield ports[1]


def test_a_fresh_folder_has_a_copy_of_the_cluster_file(cluster_file: Path, tmp_path: Path) -> None:
    """The nodes read the copy, so it can be edited while the original stays as it is."""
    data = tmp_path / "run"
    folder = open_folder(cluster_file, data, now=NOON)

    assert folder.file == data / "cluster.json"
    assert folder.file.read_bytes() == cluster_file.read_bytes()
    assert [node.name for node in (*folder.workers, *folder.api_nodes)] == ["worker-a", "api-0"]
    (worker,) = folder.workers
    assert worker.command[2:] == ("-m", "worker_node", "a", str(folder.file), "--data", str(data / "worker-a"))
    assert worker.log.parent.is_dir()


def test_where_there_is_no_example_the_one_that_comes_along_is_taken() -> None:
    """Of an installed package nothing is in the working directory; in the tree it is the same file."""
    assert OWN_FILE.read_bytes() == (ROOT / DEFAULT_FILE).read_bytes()
    assert load_config(OWN_FILE).api_nodes == {
        "0": "http://localhost:8000/analytics",
        "1": "http://localhost:8001/analytics",
    }


def test_secrets_that_the_file_names_come_along(cluster_file: Path, tmp_path: Path) -> None:
    """Their paths are relative to the file; what is secret stays so."""
    (cluster_file.parent / "secret.key").write_text("ab" * 32)
    folder = open_folder(cluster_file, tmp_path / "run", now=NOON)

    assert folder.config.secret_file == tmp_path / "run" / "secret.key"
    assert folder.config.secret_file.read_text() == "ab" * 32
    assert folder.config.secret_file.stat().st_mode & 0o777 == 0o600


def test_the_folder_of_an_earlier_run_goes_on_with_its_own_file(cluster_file: Path, tmp_path: Path) -> None:
    """An edit made there is not undone, and two files are one too many."""
    data = tmp_path / "run"
    open_folder(cluster_file, data, now=NOON)
    kept = data / "cluster.json"
    kept.write_text(kept.read_text().replace("60", "90"))

    assert open_folder(None, data, now=NOON).config.length_of_time_slice == 90
    with pytest.raises(click.UsageError, match="a cluster file of its own"):
        open_folder(cluster_file, data, now=NOON)


def test_a_folder_with_other_things_in_it_is_left_alone(cluster_file: Path) -> None:
    with pytest.raises(click.UsageError, match="neither empty nor"):
        open_folder(cluster_file, cluster_file.parent, now=NOON)


def test_nothing_is_made_where_a_port_is_in_use(cluster_file: Path, tmp_path: Path, listening: int) -> None:
    """The message names port, node and URL."""
    with pytest.raises(PortInUse, match=f"^port {listening} is in use: worker-a cannot listen at http://127.0.0.1:"):
        open_folder(cluster_file, tmp_path / "run", now=NOON)

    assert not (tmp_path / "run").exists()


def test_nothing_is_made_for_a_file_that_cannot_be_used(cluster_file: Path, tmp_path: Path) -> None:
    cluster_file.write_text("{}")

    with pytest.raises(ConfigRefused):
        open_folder(cluster_file, tmp_path / "run", now=NOON)
    assert not (tmp_path / "run").exists()


def test_every_port_in_use_is_told(ports: list[int]) -> None:
    with socket.create_server(("127.0.0.1", ports[0])), socket.create_server(("127.0.0.1", ports[1])):
        nodes = [(f"n{port}", f"http://localhost:{port}/worker") for port in ports]

        with pytest.raises(PortInUse) as caught:
            check_ports(nodes)

    assert all(f"port {port} is in use: n{port}" in str(caught.value) for port in ports)


def test_a_url_of_another_machine_is_refused(ports: list[int]) -> None:
    """192.0.2.1 is nobody's (RFC 5737), and nobody's name ends in .invalid (RFC 2606)."""
    for host in ("192.0.2.1", "worker.invalid"):
        with pytest.raises(ConfigRefused, match="runs every node on this machine"):
            check_ports([("worker-0", f"http://{host}:{ports[0]}/worker")])


def test_free_ports_pass(ports: list[int]) -> None:
    check_ports([("worker-0", f"http://localhost:{ports[0]}/worker")])

    check_ports([("worker-0", f"http://127.0.0.1:{ports[0]}/worker")])


def test_the_example_of_an_edit_is_none_that_would_be_refused() -> None:
    """A slice may have one entry, and the file of testrun.sh has some for the first few."""
    entries = [RoutingEntry(slice=SliceId(at), nodes=(WorkerId("a"),)) for at in (0, 1, 2, 3, 9)]

    assert [without_entry(entries, at) for at in (-1, 2, 3, 5, 9)] == [-1, 4, 4, 5, 10]
