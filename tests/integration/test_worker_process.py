"""A worker as a process: who may own a data directory, what its exit codes tell, and what a kill leaves."""

from __future__ import annotations

import resource

import aiohttp
import msgspec
import pytest

from common.routing import WorkerId
from common.wire import MEDIA_TYPE, Envelope, Identity, Join, Pins, encode
from tests.support.batches import STREAM, a_batch
from tests.support.cluster import Cluster, Node
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = pytest.mark.e2e

ZERO = WorkerId("0")


@pytest.fixture
async def cluster(tmp_path):
    async with Cluster(tmp_path, workers=2, start=False) as cluster:
        yield cluster


async def post(node, path, message, *, media_type="application/json"):
    body = msgspec.json.encode(message) if media_type == "application/json" else encode(message)
    # Not through the cluster: it reads text, and the worker answers in msgpack.
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url + path, data=body, headers={"Content-Type": media_type}) as response,
    ):
        assert response.status == 200, await response.read()


async def joined(cluster, node):
    answer = await cluster.ask("GET", f"{node.url}/identity")
    uuid = msgspec.json.decode(answer.text, type=Identity).uuid
    pins = Pins(
        cluster="c",
        first=1_495_238_400_000_000,
        length_seconds=3600,
        secret_id="s",
        registry=ZERO,
        workers={ZERO: uuid},
    )
    await post(node, "/join", Join(id=ZERO, uuid=uuid, pins=pins))
    return uuid


def twin(cluster, **changes) -> Node:
    """A process beside worker 0, different in what is said."""
    zero = cluster.worker["0"]
    same = {
        "kind": "worker",
        "id": "0",
        "port": zero.port,
        "file": zero.file,
        "data": zero.data,
        "log": cluster.folder / "twin.log",
    }
    return Node(**(same | changes))


async def says(node, text):
    assert text in node.log_text()


async def ends(node):
    """A process that must end by itself; its exit code and what it said last."""
    node.launch()
    try:
        code = await node.exited()
    finally:
        node.kill()
    return code, node.log_text().splitlines()[-1]


async def test_a_data_directory_that_is_owned_ends_the_second_process_with_75(cluster):
    await cluster.start(cluster.worker["0"])

    code, said = await ends(twin(cluster))

    assert (code, said.endswith("is owned by another process")) == (75, True)


async def test_the_data_directory_of_another_worker_ends_the_process_with_78(cluster):
    await cluster.start(cluster.worker["0"])

    await cluster.worker["0"].stop()
    code, said = await ends(twin(cluster, id="1"))

    assert (code, said.endswith("belongs to worker 0, not to worker 1")) == (78, True)


async def test_a_worker_that_the_file_does_not_name_ends_with_78(cluster):
    code, said = await ends(twin(cluster, id="7"))

    assert (code, said) == (78, 'tallyslice: worker-nodes: no worker "7"; known: "0", "1"')


async def test_a_port_in_use_ends_the_process_with_69(cluster):
    await cluster.start(cluster.worker["0"])

    code, said = await ends(twin(cluster, data=cluster.folder / "elsewhere"))

    assert (code, said.endswith("the port is in use")) == (69, True)


async def test_totals_that_cannot_be_read_end_the_process_with_70(cluster):
    zero = cluster.worker["0"]
    await cluster.start(zero)
    await zero.stop()
    (zero.data / "totals.mdb").write_bytes(b"x" * 20_000)

    code, said = await ends(twin(cluster))

    assert (code, "totals.mdb" in said) == (70, True)


async def test_a_command_line_that_is_none_ends_with_64(cluster):
    code, _ = await ends(twin(cluster, id="--nonsense"))

    assert code == 64


async def test_what_was_acknowledged_survives_a_kill(cluster):
    """The process is gone without a chance to tidy up; a new one has every batch that got its receipt."""
    zero = cluster.worker["0"]
    await cluster.start(zero)
    uuid = await joined(cluster, zero)
    for seq in range(1, 11):
        batches = tuple(encode(a_batch((f"user-{seq}", "click"), at=at, seq=seq)) for at in range(3))
        envelope = Envelope(cluster="c", worker=uuid, stream=STREAM, claims=seq, batches=batches)
        await post(zero, "/batches", envelope, media_type=MEDIA_TYPE)

    zero.kill()
    await cluster.start(zero)

    for at in range(3):
        answer = await cluster.ask("GET", f"{zero.url}?slice={at}")
        assert answer.text == "unique_users,10\nclicks,10\nimpressions,0\n"
    identity = await cluster.ask("GET", f"{zero.url}/identity")
    assert (identity.json["uuid"], identity.json["cluster"], identity.json["claims"]) == (uuid, "c", 10)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes the limits of another process")
async def test_a_disk_that_refuses_ends_the_process_with_70_and_without_a_receipt(cluster):
    """As on a full disk, the commit fails half-way; what was acknowledged is there at the next start, verified."""
    zero = cluster.worker["0"]
    await cluster.start(zero)
    uuid = await joined(cluster, zero)

    def envelope(seq, users):
        batch = a_batch(*((f"user-{user}", "click") for user in range(users)), seq=seq)
        return Envelope(cluster="c", worker=uuid, stream=STREAM, claims=0, batches=(encode(batch),))

    await post(zero, "/batches", envelope(1, 10), media_type=MEDIA_TYPE)
    resource.prlimit(zero.process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    with pytest.raises(aiohttp.ClientError):
        await post(zero, "/batches", envelope(2, 16_384), media_type=MEDIA_TYPE)
    assert await zero.exited() == 70
    assert (zero.data / "commit-failed").read_bytes() == b"yes\n"
    await cluster.start(zero)
    await eventually(lambda: says(zero, "event=slice_verified slice=0"))
    await post(zero, "/batches", envelope(2, 20), media_type=MEDIA_TYPE)

    answer = await cluster.ask("GET", f"{zero.url}?slice=0")
    assert answer.text == "unique_users,20\nclicks,30\nimpressions,0\n"
    assert "event=data_directory_failed" in zero.log_text()
    assert (zero.data / "commit-failed").read_bytes() == b"no \n"


async def test_a_worker_moves_to_another_port_with_its_data(cluster):
    zero = cluster.worker["0"]
    await cluster.start(zero)
    uuid = await joined(cluster, zero)
    await zero.stop()
    moved = twin(cluster, port=PORTS.take())
    cluster.write(cluster.changed(worker_nodes={**cluster.config["worker-nodes"], "0": moved.url}))

    await cluster.start(moved)
    answer = await cluster.ask("GET", f"{moved.url}/identity")
    await moved.stop()

    assert answer.json["uuid"] == uuid
    PORTS.give_back(moved.port)
