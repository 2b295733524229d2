"""The commands that ask a running cluster, as people run them: what they print, and what they leave with."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.command import PROGRAM, tallyslice
from tests.support.events import user
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.05


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One API node and two workers; slice 0 has three users, three clicks and one purchase."""
    folder = tmp_path_factory.mktemp("command")
    async with Cluster(folder, workers=2, cache_ttl_seconds=TTL, reload_seconds=0.1, event_types="any") as cluster:
        for n in range(3):
            assert (await cluster.post(f"timestamp={FIRST}&user={user(n)}&click")).status == 202
        assert (await cluster.post(f"timestamp={FIRST}&user={user(0)}&event=purchase")).status == 204
        yield cluster


async def test_a_query_is_the_answer_of_the_api(cluster: Cluster) -> None:
    """With --json byte for byte, by time or by the number of the slice."""
    answers = [
        (("--at", "2017-05-20"), f"?timestamp={FIRST}&format=json"),
        (("--at", "0"), f"?timestamp={FIRST}&format=json"),
        (("--at", "0", "--per-worker"), f"/perworker?timestamp={FIRST}&format=json"),
        (("--at", "2017-05-20T01:00", "--all"), f"/allslices?timestamp={FIRST + HOUR}&format=json"),
    ]
    said = await asyncio.gather(
        *(tallyslice("query", "--url", cluster.api["0"].url, "--json", *options) for options, _ in answers)
    )

    assert [one.code for one in said] == [0] * len(answers)
    assert [one.out for one in said] == [await cluster.text(path) + "\n" for _, path in answers]


async def test_a_query_is_a_table_for_people(cluster: Cluster) -> None:
    """With the slice, its time, and every type that occurred; without colours where nobody sees them."""
    whole = await tallyslice("query", "--cluster", cluster.file, "--at", "0", env={"FORCE_COLOR": "1"})
    parts = await tallyslice("query", "--cluster", cluster.file, "--at", "0", "--per-worker")

    assert whole.code == 0
    head, _, row = whole.out.splitlines()
    assert head.split() == ["Slice", "From", "(UTC)", "To", "Users", "Clicks", "Impressions", "purchase"]
    assert row.split() == ["0", "2017-05-20", "00:00:00", "01:00:00", "3", "3", "0", "1"]
    rows = [line.split() for line in parts.out.splitlines()[3:]]
    assert [row[:2] for row in rows] == [[node.id, node.url] for node in cluster.worker.values()]
    assert sum(int(row[2]) for row in rows) == 3


async def test_status_of_a_cluster_that_is_well(cluster: Cluster) -> None:
    """Exit status 0; every node of the file, the pins and the registry."""
    said = await tallyslice("status", "--cluster", cluster.file)
    plain = await tallyslice("status", "--cluster", cluster.file, "--json")

    assert (said.code, plain.code) == (0, 0), said
    assert said.out.endswith("All is well.\n")
    found = plain.json
    assert {node["node"]: node["condition"] for node in found["nodes"]} == dict.fromkeys(
        ("api-0", "worker-0", "worker-1"), "ready"
    )
    assert found["pins"]["first_slice"] == "2017-05-20T00:00:00Z"
    assert found["registry"]["claims"] == (await cluster.state())["claims"]
    assert found["problems"] == []


async def test_status_tells_what_is_wrong(cluster: Cluster) -> None:
    """A worker that is away, and a file that is refused: exit status 1, and both are said. What is mended is gone."""
    worker = cluster.worker["1"]
    await worker.stop()
    cluster.write(cluster.changed(length_of_time_slice=1))

    async def wrong() -> None:
        said = await tallyslice("status", "--cluster", cluster.write(name="good.json"), "--json")
        assert said.code == 1, said
        problems = "\n".join(said.json["problems"])
        assert "worker-1" in problems
        assert "cannot connect" in problems
        assert "refused the cluster file" in problems
        assert "length-of-time-slice" in problems
        assert [node["condition"] for node in said.json["nodes"]] == ["ready", "ready", "away"]

    await eventually(wrong, seconds=20)
    partial = await tallyslice("query", "-c", cluster.folder / "good.json", "--at", "0", "--partial", "--json")
    cluster.write()
    await cluster.start(worker)

    async def well() -> None:
        assert (await tallyslice("status", "--cluster", cluster.file)).code == 0

    await eventually(well, seconds=20)
    assert (partial.code, partial.json["complete"]) == (1, False)


async def test_nobody_answers() -> None:
    """Exit status 70 and a sentence, from each command that asks."""
    port = PORTS.take()
    try:
        said = await tallyslice("query", "--url", f"http://127.0.0.1:{port}")
    finally:
        PORTS.give_back(port)

    assert (said.code, said.out) == (70, "")
    assert "cannot connect" in said.err


async def test_a_question_that_makes_no_sense_is_told_what_would(cluster: Cluster) -> None:
    """Exit status 64, and what to do instead."""
    two = await tallyslice("query", "--url", cluster.api["0"].url, "--cluster", cluster.file)
    both = await tallyslice("query", "--url", cluster.api["0"].url, "--all", "--per-worker")
    when = await tallyslice("query", "--url", cluster.api["0"].url, "--at", "yesterday")

    assert [one.code for one in (two, both, when)] == [64, 64, 64]
    assert "give one of them" in two.err
    assert "--per-worker" in both.err
    assert "-1h" in when.err


async def test_a_reader_who_has_seen_enough_gets_no_complaint(cluster: Cluster) -> None:
    """``tallyslice query | true`` says nothing on standard error."""
    process = await asyncio.create_subprocess_shell(
        f"{PROGRAM} query --url {cluster.api['0'].url} --all | true", stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert err == b""


async def test_ctrl_c_leaves_with_130() -> None:
    """While a question waits for a node that says nothing: no traceback, and nothing that passes for an answer."""
    asked = asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "query", "--url", f"http://{host}:{port}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await asked.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


async def test_no_color_is_respected(cluster: Cluster) -> None:
    """On a terminal, with NO_COLOR set, no colour is used; without it, some is."""

    async def shown(env: dict[str, str]) -> bytes:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "status", "--cluster", cluster.file, stdout=slave, env={**os.environ, "TERM": "xterm", **env}
        )
        os.close(slave)
        await process.wait()
        output = os.read(master, 1 << 16)
        os.close(master)
        return output

    plain, coloured = await asyncio.gather(shown({"NO_COLOR": "1"}), shown({"NO_COLOR": ""}))
    assert b"\x1b[32m" not in plain
    assert b"\x1b[32m" in coloured


async def test_the_shell_completes_commands_and_options() -> None:
    """What `tallyslice completion bash` prints makes bash know both."""
    script = f"""
        PATH={PROGRAM.parent}:$PATH
        eval "$(tallyslice completion bash)"
        complete_it() {{
            COMPREPLY=() COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _tallyslice_completion tallyslice; echo "$COMPREPLY"
        }}
        complete_it tallyslice sta
        complete_it tallyslice query --per
    """
    process = await asyncio.create_subprocess_exec(
        "bash", "--norc", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()

    assert out.decode().split() == ["status", "--per-worker"], err.decode()


async def test_version_says_what_runs() -> None:
    """Of Tallyslice, of Python, of the libraries; as text and as JSON."""
    text, plain, short = await asyncio.gather(
        tallyslice("version"), tallyslice("version", "--json"), tallyslice("--version")
    )

    assert {"tallyslice", "python", "lmdb"} <= plain.json.keys()
    assert [line.split()[0] for line in text.out.splitlines()] == list(plain.json)
    assert plain.json["tallyslice"] in short.out
    assert json.dumps(plain.json, indent=1) == plain.out.strip()
