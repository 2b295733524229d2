"""What the metrics of a running cluster say is what happened."""

from __future__ import annotations

from pathlib import Path

from common.config import load_config
from tests.support.cluster import FIRST, HOUR, Node
from tests.support.events import CANARY
from tests.support.nodes import Nodes
from tests.support.patience import eventually


async def samples(nodes: Nodes, node: Node) -> dict[str, float]:
    """Every sample of a node, by its name and labels as they are written."""
    text = (await nodes.ask("GET", f"{node.base}/metrics")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_the_sizes_and_times_of_what_travels(tmp_path: Path) -> None:
    """Each event is in one batch, each batch in one envelope, each envelope in one delivery and one commit."""
    async with Nodes(tmp_path, workers=1) as nodes:
        for number in range(3):
            await nodes.click(f"{CANARY}-{number}")
        api = await samples(nodes, nodes.api["0"].node)
        worker = await samples(nodes, nodes.worker["0"].node)

    assert api["tallyslice_batch_events_sum"] == api["tallyslice_envelope_events_sum"] == 3
    assert api["tallyslice_batch_events_count"] == api["tallyslice_envelope_events_count"] == 3
    assert api['tallyslice_batch_events_bucket{le="1.0"}'] == 3
    assert api['tallyslice_delivery_seconds_count{worker="0"}'] == 3
    assert worker["tallyslice_worker_commit_events_sum"] == worker["tallyslice_worker_commit_seconds_count"] == 3
    assert worker["tallyslice_worker_commit_slices_sum"] == worker["tallyslice_worker_events_applied_total"] == 3
    assert 0 < worker["tallyslice_worker_commit_seconds_sum"] < api['tallyslice_delivery_seconds_sum{worker="0"}']


async def test_how_late_events_come(tmp_path: Path) -> None:
    """Of one in a tenth of a second; those of the future are not late."""
    async with Nodes(tmp_path, workers=1) as nodes:
        await nodes.click(at=FIRST)  # half an hour late
        await nodes.click(at=FIRST)  # in the same moment, by the clock of the nodes
        nodes.now.seconds += 0.2
        await nodes.click(at=nodes.now.seconds + 10)
        found = await samples(nodes, nodes.api["0"].node)

    assert found["tallyslice_event_lag_seconds_sum"] == HOUR / 2
    buckets = {
        bound: found[f'tallyslice_event_lag_seconds_bucket{{le="{bound}"}}'] for bound in ("0.0", "300.0", "1800.0")
    }
    assert buckets == {"0.0": 1, "300.0": 1, "1800.0": 2}


async def test_a_question_waits_for_workers_only_for_what_is_not_at_hand(tmp_path: Path) -> None:
    """Once for both workers, and then not again while the cache has it."""
    async with Nodes(tmp_path, workers=2, cache_ttl_seconds=60) as nodes:
        await nodes.restart_api()
        await nodes.click()
        await nodes.restart_api()
        first = await nodes.summary()
        after_first = await samples(nodes, nodes.api["0"].node)
        assert await nodes.summary() == first
        after_second = await samples(nodes, nodes.api["0"].node)

    assert after_first["tallyslice_fanout_seconds_count"] == after_second["tallyslice_fanout_seconds_count"] == 1
    assert after_second['tallyslice_summaries_total{source="cache"}'] == 2


async def test_the_bytes_of_slice_files(tmp_path: Path) -> None:
    """Those that the files have, after commits, after a start, and when one was closed."""

    def on_disk(nodes: Nodes) -> int:
        return sum(path.stat().st_size for path in (nodes.worker["0"].data / "slices").glob("*.mdb"))

    async def told(nodes: Nodes) -> tuple[float, float]:
        found = await samples(nodes, nodes.worker["0"].node)
        return found["tallyslice_worker_file_bytes"], found["tallyslice_worker_open_files"]

    async with Nodes(tmp_path, workers=1, close_after_seconds=HOUR, close_grace_seconds=0) as nodes:
        for number in range(50):
            await nodes.click(f"{CANARY}-{number}", at=FIRST + number % 2 * HOUR)
        sizes = [on_disk(nodes)]
        found = [await told(nodes)]
        await nodes.restart_worker("0")
        sizes.append(on_disk(nodes))
        found.append(await told(nodes))
        nodes.now.seconds = FIRST + 2 * HOUR + 1
        closing = nodes.worker["0"].closing
        assert closing is not None
        await closing.close_due()
        sizes.append(on_disk(nodes))
        found.append(await told(nodes))

    assert [size for size, _ in found] == sizes
    assert sizes[0] == sizes[1] > sizes[2] > 0
    assert [files for _, files in found][:2] == [2, 0]


async def test_the_registry_is_shown_where_it_is(tmp_path: Path) -> None:
    """At its host: what it has settled, and that it is lost when it is; API nodes tell that they get no answer."""
    async with Nodes(tmp_path, workers=2) as nodes:
        await nodes.click()
        host, other = [await samples(nodes, nodes.worker[name].node) for name in "01"]
        api = await samples(nodes, nodes.api["0"].node)
        await nodes.worker["0"].stop()
        for path in nodes.worker["0"].data.glob("registry.mdb*"):
            path.unlink()
        await nodes.start_worker("0")
        nodes.now.seconds += 2 * HOUR
        await nodes.click(at=nodes.now.seconds)
        lost = await samples(nodes, nodes.worker["0"].node)
        refused = await samples(nodes, nodes.api["0"].node)

    assert host["tallyslice_registry_slices"] == host["tallyslice_registry_claims"] >= 1
    assert (host["tallyslice_registry_behind"], api["tallyslice_registry_available"]) == (0, 1)
    assert not [name for name in other if name.startswith("tallyslice_registry")]
    assert (lost["tallyslice_registry_behind"], refused["tallyslice_registry_available"]) == (1, 0)


async def test_the_workers_as_an_api_node_sees_them(tmp_path: Path) -> None:
    """One state at a time."""

    async def states(nodes: Nodes) -> set[str]:
        found = await samples(nodes, nodes.api["0"].node)
        return {name for name, value in found.items() if name.startswith("tallyslice_worker_state") and value}

    async with Nodes(tmp_path, workers=1) as nodes:
        await nodes.click()
        before = await states(nodes)
        await nodes.worker["0"].stop()

        async def away() -> None:
            assert await states(nodes) == {'tallyslice_worker_state{state="away",worker="0"}'}

        await eventually(away)

    assert before == {'tallyslice_worker_state{state="ok",worker="0"}'}


async def test_the_version_of_the_cluster_file(tmp_path: Path) -> None:
    """The one that runs and no other, on both node types, before and after a change."""

    async def versions(nodes: Nodes) -> set[str]:
        found = [await samples(nodes, one.node) for one in (nodes.api["0"], nodes.worker["0"])]
        return {name for one in found for name in one if name.startswith("tallyslice_config_version_info")}

    async with Nodes(tmp_path, workers=1) as nodes:
        old = load_config(nodes.file).version
        assert await versions(nodes) == {f'tallyslice_config_version_info{{version="{old}"}}'}
        nodes.write(max_slices=1234)
        new = load_config(nodes.file).version

        async def changed() -> None:
            assert await versions(nodes) == {f'tallyslice_config_version_info{{version="{new}"}}'}

        await eventually(changed)
        reloads = [await samples(nodes, one.node) for one in (nodes.api["0"], nodes.worker["0"])]

    assert [one["tallyslice_config_reloads_total"] for one in reloads] == [1, 1]
