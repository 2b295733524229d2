"""The worker's path alone, on a real disk file: an envelope is decoded, its batches are addressed, applied, committed.

No network and no loop: what is measured is ``decode_envelope``, ``address`` and ``SliceStore.apply``, which is what a
worker does with the bytes of an envelope. With ``--before TREE``, another checkout takes turns with this one on copies
of the same file, so that the ratio of the two means something on a machine that is busy with other things.

::

    python -m bench.worker_path --users 10000 100000 1000000 10000000 --new 5 50 100
    git worktree add --detach /tmp/before COMMIT
    python -m bench.worker_path --before /tmp/before --users 300000 --new 0 --ids

Each figure is the median of the rounds; each round is a process of its own: it opens the slice's file, takes some
groups to warm up, then times as many: first in turn, then as the worker does it, where the next envelope is decoded
while the last one is committed. ``cpu`` leaves out what waits for the disk, and for the machine's other work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
BATCH_EVENTS = 16_384
BUILD_EVENTS = 1 << 18  # a group of the build: as many as the writer takes at most
KEY_BYTES = 16
SEED = 4
STREAM, KEY_ID = b"stream-of-bench!", b"keyid-01"


def columns(arguments: argparse.Namespace, groups: int, draw: random.Random) -> Iterator[bytes]:
    """The user columns of so many groups: new users, and known ones, each drawn with the same chance."""
    known = random.Random(SEED).randbytes(KEY_BYTES * arguments.users)
    fresh = round(arguments.group * arguments.new / 100)
    for _ in range(groups):
        keys = [draw.randbytes(KEY_BYTES) for _ in range(fresh)]
        for _ in range(arguments.group - fresh):
            at = draw.randrange(arguments.users) * KEY_BYTES
            keys.append(known[at : at + KEY_BYTES])
        draw.shuffle(keys)
        yield b"".join(keys)


class Round:
    """One process. The code is that of ``--tree``, which is on the path already: hence the imports in here."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from common.routing import WorkerId  # noqa: PLC0415 - see above
        from common.slices import SliceId  # noqa: PLC0415
        from worker_node.shelf import Shelf  # noqa: PLC0415

        self.arguments = arguments
        self.slice, self.route = SliceId(0), (WorkerId("0"),)
        self.shelf = Shelf(folder=Path(arguments.folder), open_files_max=2)
        self.shelf.start(closed=())
        found = self.shelf.get(self.slice)
        self.store = found or self.shelf.create(self.slice, route=self.route, position=0, key_id=KEY_ID)
        known = dict(self.store.streams())
        self.seq = known[STREAM].seq if STREAM in known else 0
        self.merging: list[float] = []
        self.draw = random.Random(os.urandom(8))

    def build(self) -> dict[str, Any]:
        """Fill the slice with users, and nothing else."""
        self.fill()
        self.shelf.close()
        return {}

    def fill(self) -> None:
        """As many users as there are to be."""
        users = self.arguments.users
        known = random.Random(SEED).randbytes(KEY_BYTES * users)
        for at in range(0, users, BUILD_EVENTS):
            self.apply(self.read(self.envelope(known[at * KEY_BYTES : (at + BUILD_EVENTS) * KEY_BYTES])))

    def measure(self) -> dict[str, Any]:
        """Warm up; in turn; overlapped."""
        groups = self.arguments.groups
        if self.arguments.made:
            self.fill()
            self.merging.clear()
        bodies = [self.envelope(column) for column in columns(self.arguments, 3 * groups, self.draw)]
        for body in bodies[:groups]:
            self.apply(self.read(body))
        busy, reading, applying = time.process_time(), 0.0, 0.0
        for body in bodies[groups : 2 * groups]:
            began = time.perf_counter()
            items = self.read(body)
            between = time.perf_counter()
            self.apply(items)
            reading += between - began
            applying += time.perf_counter() - between
        busy = time.process_time() - busy
        overlapped = self.overlapped(bodies[2 * groups :])
        events = self.arguments.group * groups
        told = {
            "read ns": reading / events * 1e9,
            "apply ns": applying / events * 1e9,
            "cpu ns": busy / events * 1e9,
            "in turn/s": events / (reading + applying),
            "overlapped/s": events / overlapped,
            "merge ms, longest": max(self.merging) * 1e3,
        }
        return told | self.pages()

    def overlapped(self, bodies: Sequence[bytes]) -> float:
        """The seconds that it takes to decode each envelope while a thread applies the one before."""
        with ThreadPoolExecutor(1) as thread:
            began = time.perf_counter()
            under_way = thread.submit(self.apply, ())
            for body in bodies:
                items = self.read(body)
                under_way.result()
                under_way = thread.submit(self.apply, items)
            under_way.result()
            return time.perf_counter() - began

    def apply(self, items: Sequence[Any]) -> None:
        """What the writer's thread does with them."""
        self.store.apply(items)
        began = time.perf_counter()
        if hasattr(self.shelf, "crowded"):  # not so in a tree from before there were runs
            while store := self.shelf.crowded():
                store.merge()
        self.merging.append(time.perf_counter() - began)

    def pages(self) -> dict[str, float]:
        """What a user takes: in pages that are in use, and in the file."""
        from bench.groups.growth import live_bytes  # noqa: PLC0415 - see above

        path, users = self.shelf.path(self.slice), self.store.held.summary.users
        self.shelf.close()
        return {"live B/user": live_bytes(path) / users, "file B/user": path.stat().st_size / users}

    def read(self, body: bytes) -> list[Any]:
        """What the worker's loop does with a body."""
        from common.wire import decode_envelope  # noqa: PLC0415 - see above
        from worker_node.receiver import address  # noqa: PLC0415

        envelope, batches = decode_envelope(body)
        pairs = zip(batches, envelope.batches, strict=True)
        return [address(self.route[0], envelope, batch, raw) for batch, raw in pairs]

    def envelope(self, users: bytes) -> bytes:
        """A group of events, as an API node sends it."""
        from common.wire import Batch, Envelope, encode  # noqa: PLC0415 - see above

        names = tuple(f"type-{number}" for number in range(self.arguments.names))
        batches = []
        for at in range(0, len(users), BATCH_EVENTS * KEY_BYTES):
            column = users[at : at + BATCH_EVENTS * KEY_BYTES]
            self.seq += 1
            batch = Batch(
                slice=self.slice,
                seq=self.seq,
                route=self.route,
                key_id=KEY_ID,
                names=names,
                kinds=bytes(self.draw.choices(range(len(names)), k=len(column) // KEY_BYTES)),
                users=column,
                ids=self.draw.randbytes(len(column)) if self.arguments.ids else b"",
            )
            batches.append(encode(batch))
        return encode(Envelope(cluster="c", worker="w", stream=STREAM, claims=0, batches=tuple(batches)))


def call(arguments: argparse.Namespace, tree: Path, folder: Path, *more: str) -> dict[str, Any]:
    """A round in a process of its own."""
    command = [sys.executable, "-m", "bench.worker_path", "--tree", str(tree), "--folder", str(folder), *more]
    command += ["--group", str(arguments.group), "--groups", str(arguments.groups), "--names", str(arguments.names)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=HERE)  # noqa: S603 - our own program
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def compare(arguments: argparse.Namespace, scratch: Path, users: int) -> None:
    """All shares of new users for one size of the slice."""
    built = scratch / "built"
    made(built)
    if not arguments.made:
        # By the older one, whose files the newer one takes; not the other way round.
        call(arguments, arguments.before or HERE, built, "--build", "--users", str(users))
    trees = {"after": HERE} if arguments.before is None else {"before": arguments.before, "after": HERE}
    for share in arguments.new:
        told: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for _ in range(arguments.rounds):
            for name, tree in trees.items():
                copy = scratch / name
                shutil.copytree(built, copy)
                options = ["--users", str(users), "--new", str(share)]
                options += [f"--{name}" for name in ("ids", "made") if getattr(arguments, name)]
                told[name].append(call(arguments, tree, copy, *options))
                shutil.rmtree(copy)
        medians = {
            name: {key: statistics.median(it[key] for it in all_) for key in all_[0]} for name, all_ in told.items()
        }
        for name, one in medians.items():
            figures = "  ".join(
                f"{key} {value:,.0f}" if value > 100 else f"{key} {value:.1f}" for key, value in one.items()
            )
            ratio = one["overlapped/s"] / medians[next(iter(trees))]["overlapped/s"]
            print(f"users {users:>10,}  new {share:>3} %  {name:>6}  {figures}  ratio {ratio:.2f}", flush=True)
    shutil.rmtree(built)


def made(folder: Path) -> Path:
    """The folder, new."""
    folder.mkdir()
    return folder


def main() -> None:
    """Compare, or be one round of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--new", type=int, nargs="+", default=[5, 50, 100], help="percent of events with a new user")
    parser.add_argument("--ids", action="store_true", help="an id on every event, each of them new")
    parser.add_argument("--made", action="store_true", help="each round fills the slice itself, and so knows its users")
    parser.add_argument("--names", type=int, default=2, help="event types")
    parser.add_argument("--group", type=int, default=32_768, help="events of a commit")
    parser.add_argument(
        "--groups", type=int, default=12, help="commits of a round, thrice: warm up, in turn, overlapped"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to measure; the current one by default")
    parser.add_argument("--tree", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tree is not None:
        sys.path.insert(0, arguments.tree)
        arguments.users, arguments.new = arguments.users[0], arguments.new[0]
        one = Round(arguments)
        print(json.dumps(one.build() if arguments.build else one.measure()))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch or Path.cwd()) as scratch:
        for users in arguments.users:
            compare(arguments, Path(scratch), users)


if __name__ == "__main__":
    main()
