"""Between an API node and a worker: lost data, conflicts, moves, tokens, and what becomes of a retired stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from common.wire import MEDIA_TYPE, Envelope, Outcome, Reply, decode, encode
from tests.support.cluster import FIRST, HOUR
from tests.support.events import tally, user
from tests.support.nodes import Delayed, Nodes, Silent, until
from tests.support.patience import eventually
from tests.support.ports import PORTS
from tests.support.proxy import Exchange, Proxy


def delivering(worker: str) -> int:
    """How many streams to a worker are alive."""
    return sum(task.get_name() == f"deliver-{worker}" for task in asyncio.all_tasks())


async def faults(nodes: Nodes, kind: str) -> float:
    return await nodes.metric(f'tallyslice_stream_faults_total{{kind="{kind}"}}')


async def test_a_worker_set_back_is_found_out(tmp_path: Path) -> None:
    """What comes next is counted, what was lost is not invented, and the slice says that it is not complete.

    ::

        seq 1   seq 2   | those of after seq 1 are put back |   seq 3: gap, goes on as seq 1 of a new stream
    """
    async with Nodes(tmp_path, workers=1, cache_ttl_seconds=30) as nodes:
        await nodes.click(user(1))
        await nodes.worker["0"].stop()
        older = nodes.keep("0")
        await nodes.start_worker("0")
        await nodes.click(user(2))
        assert await nodes.summary() == tally(2, 2, 0)
        assert (await nodes.json())["complete"] is True
        await nodes.worker["0"].stop()
        nodes.put_back("0", older)
        await nodes.start_worker("0")

        assert (await nodes.click(user(3))).status == 202
        found = await nodes.json()
        assert (found["unique_users"], found["clicks"], found["complete"]) == (2, 2, False)
        assert (await nodes.get(f"?timestamp={FIRST}")).headers["X-Complete"] == "false"
        assert (await nodes.get(f"/allslices?timestamp={FIRST}")).headers["X-Complete"] == "false"
        assert await faults(nodes, "stream_regressed") == 1
        assert "event=stream_regressed worker=0 slice=0 batches=1" in nodes.written.getvalue()
        await until(lambda: delivering("0") == 1)

        assert (await nodes.click(user(4))).status == 202
        assert await faults(nodes, "stream_regressed") == 1
        await nodes.restart_worker("0")
        await nodes.restart_api()
        assert (await nodes.json())["complete"] is False


async def test_a_worker_whose_slice_file_is_gone_is_found_out(tmp_path: Path) -> None:
    """Likewise; other slices are as complete as before."""
    async with Nodes(tmp_path, workers=1) as nodes:
        for number in range(3):
            await nodes.click(user(number))
        await nodes.click(at=FIRST + HOUR)
        await nodes.worker["0"].stop()
        for path in (nodes.worker["0"].data / "slices").glob("0.mdb*"):
            path.unlink()
        await nodes.start_worker("0")

        assert await nodes.summary() == tally(0, 0, 0)
        assert (await nodes.click(user(9))).status == 202
        found = await nodes.json()
        assert (found["unique_users"], found["clicks"], found["complete"]) == (1, 1, False)
        assert await faults(nodes, "stream_regressed") == 1
        assert (await nodes.click(at=FIRST + HOUR)).status == 202
        assert (await nodes.json(at=FIRST + HOUR))["complete"] is True
        await until(lambda: delivering("0") == 1)


async def test_what_queued_behind_lost_data_goes_on_too(tmp_path: Path) -> None:
    """The batch that found it out, and those behind it, are counted once each."""
    async with Nodes(tmp_path, workers=1) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes={"0": proxy.url}))
        await nodes.click(user(1))
        await nodes.worker["0"].stop()
        for path in (nodes.worker["0"].data / "slices").glob("0.mdb*"):
            path.unlink()
        await nodes.start_worker("0")
        delayed = Delayed()
        proxy.plan.append(delayed)
        first = asyncio.create_task(nodes.click(user(2)))
        await until(lambda: len(proxy.exchanges) == 2)
        others = [asyncio.create_task(nodes.click(user(number))) for number in (3, 4, 5)]
        await eventually(lambda: queued(nodes, 4))
        delayed.release()

        assert {(await task).status for task in (first, *others)} == {202}
        found = await nodes.json()
        assert (found["unique_users"], found["clicks"], found["complete"]) == (4, 4, False)
        await until(lambda: delivering("0") == 1)


async def queued(nodes: Nodes, events: int) -> None:
    assert (await nodes.link("0"))["queue_events"] == events


async def test_a_number_that_the_worker_knows_with_other_bytes_is_a_conflict(tmp_path: Path) -> None:
    """It is reported, the stream ends, and the batch goes on in a new one: counted once."""

    async def forge(exchange: Exchange) -> bytes:
        """Let another batch of the same number arrive first."""
        (batch,) = exchange.batches
        other = msgspec.structs.replace(batch, users=bytes([batch.users[0] ^ 1]) + batch.users[1:])
        envelope = msgspec.structs.replace(decode(exchange.body, Envelope), batches=(encode(other),))
        async with nodes.session.post(
            f"{nodes.worker['0'].url}/batches", data=encode(envelope), headers={"Content-Type": MEDIA_TYPE}
        ) as response:
            assert [one.outcome for one in decode(await response.read(), Reply).receipts] == [Outcome.APPLIED]
        return await exchange.deliver()

    async with Nodes(tmp_path, workers=1) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes={"0": proxy.url}))
        proxy.plan.append(forge)

        assert (await nodes.click()).status == 202
        assert proxy.outcomes == [Outcome.CONFLICT, Outcome.APPLIED]
        assert await faults(nodes, "stream_conflict") == 1
        assert await nodes.summary() == tally(2, 2, 0)
        assert (await nodes.json())["complete"] is True
        await until(lambda: delivering("0") == 1)


async def test_a_reply_that_is_none_is_no_reply(tmp_path: Path) -> None:
    """Receipts for other batches, or bytes of another protocol: the same batch is sent again, and counted once."""

    async def for_others(exchange: Exchange) -> bytes:
        reply = await exchange.deliver()
        return reply.replace(b"\xa3seq\x01", b"\xa3seq\x09")

    async def gibberish(exchange: Exchange) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xc1\xc1\xc1"

    async with Nodes(tmp_path, workers=1) as nodes, Proxy(nodes.worker["0"].node) as proxy:
        await nodes.restart_api(file=nodes.write(name="proxied.json", worker_nodes={"0": proxy.url}))
        proxy.plan.extend([for_others, gibberish])

        assert (await nodes.click()).status == 202
        assert proxy.outcomes == [Outcome.APPLIED, Outcome.DUPLICATE]
        assert await nodes.summary() == tally(1, 1, 0)


async def test_a_worker_that_moves_keeps_its_stream(tmp_path: Path) -> None:
    """Events wait for it; when the file tells where it is now, they are delivered there, once each."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click(user(1))
        worker = nodes.worker["1"]
        await worker.stop()
        old, worker.node.port = worker.node.port, PORTS.take()
        async with Silent(old):
            waiting = asyncio.create_task(nodes.click(user(2)))
            await eventually(lambda: queued_at(nodes, "1", 1))
            nodes.write(worker_nodes={"0": nodes.worker["0"].url, "1": worker.url})
            await eventually(lambda: listed_at(nodes, "1", worker.url))
            await nodes.start_worker("1")
        await waiting
        PORTS.give_back(old)

        await eventually(lambda: shows(nodes, tally(2, 2, 0)))
        assert (await nodes.click(user(2))).status == 202
        assert await faults(nodes, "stream_regressed") == 0
        assert (await nodes.json())["complete"] is True


async def queued_at(nodes: Nodes, worker: str, events: int) -> None:
    assert (await nodes.link(worker))["queue_events"] == events


async def listed_at(nodes: Nodes, worker: str, url: str) -> None:
    assert (await nodes.link(worker))["url"] == url


async def shows(nodes: Nodes, text: str) -> None:
    assert await nodes.summary() == text


async def test_a_worker_that_is_asked_while_it_moves_is_asked_again(tmp_path: Path) -> None:
    """Whoever answers at the old URL says nothing about the new one, for good or ill.

    ::

        asked who it is at the URL of worker 1 --- the file changes --- worker 1 answers: not worker 0
    """
    async with Nodes(tmp_path, start=False) as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        urls = nodes.config["worker-nodes"]
        await nodes.start_api("0")
        for _ in range(5):
            nodes.write(worker_nodes={"0": urls["1"], "1": urls["0"]})
            await eventually(lambda: listed_at(nodes, "0", urls["1"]))
            nodes.write(worker_nodes=urls)
            await eventually(lambda: listed_at(nodes, "0", urls["0"]))

        await eventually(lambda: in_state(nodes, "0", "ok"))
        await eventually(lambda: in_state(nodes, "1", "ok"))
        assert (await nodes.click()).status == 202


async def in_state(nodes: Nodes, worker: str, state: str) -> None:
    assert (await nodes.link(worker))["state"] == state


async def test_a_worker_that_leaves_the_file_and_comes_back(tmp_path: Path) -> None:
    """It held nothing; its link ends and begins with the file, and its metrics with it."""
    async with Nodes(tmp_path, routing={0: ["0"]}) as nodes:
        both = nodes.config["worker-nodes"]
        nodes.write(worker_nodes={"0": both["0"]})
        await eventually(lambda: listed(nodes, ["0"]))
        assert 'worker="1"' not in (await nodes.ask("GET", f"{nodes.api['0'].node.base}/metrics")).text

        nodes.write(worker_nodes=both, routing=[{"slice": 1, "nodes": ["1"]}])
        await eventually(lambda: listed(nodes, ["0", "1"]))
        assert (await nodes.click(at=FIRST + HOUR)).status == 202
        assert 'worker="1"' in (await nodes.ask("GET", f"{nodes.api['0'].node.base}/metrics")).text


async def listed(nodes: Nodes, workers: list[str]) -> None:
    assert [worker["id"] for worker in (await nodes.state())["workers"]] == workers


async def test_a_token_that_does_not_fit_is_refused_until_it_does(tmp_path: Path) -> None:
    """The node with another token takes nothing and answers nothing; both sides follow the file."""
    (tmp_path / "token").write_text("sesame")
    (tmp_path / "other").write_text("barley")
    async with Nodes(tmp_path, start=False, internal_token_file="token") as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        await nodes.start_api("0")
        assert (await nodes.click()).status == 202
        file = nodes.write(name="api.json", internal_token_file="other")
        await nodes.restart_api(file=file)

        await eventually(lambda: in_state(nodes, "1", "refused"))
        assert "the token is not the cluster's internal token" in (await nodes.link("1"))["detail"]
        refused = await nodes.click()
        assert (refused.status, refused.problem) == (503, "not-taken")
        asked = await nodes.get(f"?timestamp={FIRST}")
        assert (asked.status, asked.problem) == (503, "no-answer")
        assert "sesame" not in nodes.written.getvalue()

        nodes.write(name="api.json", reload_seconds=29)
        await eventually(lambda: in_state(nodes, "1", "ok"))
        await eventually(lambda: in_state(nodes, "0", "ok"))
        assert (await nodes.click()).status == 202
        assert await nodes.summary() == tally(1, 2, 0)


async def test_a_token_that_changes_under_way_only_delays(tmp_path: Path) -> None:
    """The workers hear of it later than the API node: nothing is lost, nothing counted twice."""
    (tmp_path / "token").write_text("sesame")
    (tmp_path / "other").write_text("barley")
    async with Nodes(tmp_path, workers=1, start=False, internal_token_file="token") as nodes:
        await nodes.start_worker("0")
        own = nodes.write(name="api.json")
        await nodes.start_api("0", file=own)
        await nodes.click(user(1))
        nodes.write(name="api.json", internal_token_file="other")
        await eventually(lambda: version_differs(nodes))
        late = await nodes.click(user(2), more="&id=2")
        nodes.write(internal_token_file="other")

        assert late.status in (202, 503)
        await eventually(lambda: shows(nodes, tally(2, 2, 0)))
        assert (await nodes.click(user(2), more="&id=2")).status == 202
        assert await nodes.summary() == tally(2, 2, 0)


async def version_differs(nodes: Nodes) -> None:
    assert "event=cluster_file_accepted" in nodes.written.getvalue()


async def test_a_token_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    async with Nodes(tmp_path) as nodes:
        nodes.write(internal_token_file="nowhere")

        async def refused() -> None:
            refusal = (await nodes.state())["refusal"]
            assert refusal is not None
            assert "internal-token-file" in str(refusal["reasons"])

        await eventually(refused)
        assert (await nodes.click()).status == 202
