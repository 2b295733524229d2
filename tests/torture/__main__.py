"""``python -m tests.torture kills``, ``network`` or ``namespaces``: see ``--help``.

Exit code 0: it held, or it was skipped and says why; 1: it broke; 2: void.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeAlias

import uvloop

from tests.torture.kills import kill_round
from tests.torture.namespaces import BY_HAND_SECONDS, IN_CI_SECONDS, Link, Refused, namespace_round
from tests.torture.network import BY_HAND, IN_CI, network_round
from tests.torture.rounds import EXIT_KEPT, Book, Round, clear_progress, report, show_progress

KILLS_PER_ROUND = 25
ACKNOWLEDGED_PER_ROUND = 25_000
ACKNOWLEDGED_LEAST = 1000
STATE = Path("data/torture")

Play: TypeAlias = Callable[[Path, int, Callable[[str], None]], Coroutine[None, None, Round]]
"""Folder, seed, and who is told what happens -> a round."""


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills", help="SIGKILL for any node, at any moment, under load")
    kills.add_argument("--kills", type=int, default=20)
    kills.add_argument("--acknowledged", type=int, default=10_000)
    kills.add_argument("--storm", action="store_true", help="with a bad network between the nodes, too")
    kills.add_argument("--wrong", help="a planted bug that the run must find")
    kills.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    kills.add_argument("--state", type=Path, help="where finished rounds are kept; a run is taken up from there")
    network = commands.add_parser("network", help="a bad network between the nodes, one fault after the other")
    network.add_argument("--rounds", type=int, default=1, help="in each, every fault once")
    network.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    network.add_argument("--short", action="store_true", help="faults as short as in CI")
    network.add_argument("--state", type=Path, help="where finished rounds are kept; a run is taken up from there")
    namespaces = commands.add_parser("namespaces", help="a worker on a host of its own, and the link to it fails; root")
    namespaces.add_argument("--rounds", type=int, default=1, help="in each, every loss once")
    namespaces.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    namespaces.add_argument("--short", action="store_true", help="faults as short as in CI")
    namespaces.add_argument("--state", type=Path, help="where finished rounds are kept; a run is taken up from there")
    arguments = parser.parse_args()
    return {"kills": _kills, "network": _network, "namespaces": _namespaces}[arguments.command](arguments)


def _kills(arguments: argparse.Namespace) -> int:
    kind = arguments.wrong or ("storm" if arguments.storm else "product")
    book = _book(arguments, f"kills-{arguments.seed}-{kind}")

    def play(folder: Path, seed: int, progress: Callable[[str], None]) -> Coroutine[None, None, Round]:
        kills = max(1, arguments.kills - book.faults)
        events = max(ACKNOWLEDGED_LEAST, arguments.acknowledged - book.acknowledged)
        # As many rounds as either needs: nodes die by themselves, too, so there are often more kills than asked for.
        rounds = max(math.ceil(kills / KILLS_PER_ROUND), math.ceil(events / ACKNOWLEDGED_PER_ROUND))
        kills, acknowledged = math.ceil(kills / rounds), math.ceil(events / rounds)
        return kill_round(
            folder,
            seed=seed,
            kills=kills,
            acknowledged=acknowledged,
            storm=arguments.storm,
            wrong=arguments.wrong,
            progress=progress,
        )

    while book.faults < arguments.kills or book.acknowledged < arguments.acknowledged:
        so_far = f"{book.faults} of {arguments.kills}, {book.acknowledged:,} of {arguments.acknowledged:,}"
        if not _played(book, arguments.seed, so_far, play):
            break
    return _end(book)


def _network(arguments: argparse.Namespace) -> int:
    book = _book(arguments, f"network-{arguments.seed}-{'short' if arguments.short else 'long'}")
    faults = IN_CI if arguments.short else BY_HAND

    def play(folder: Path, seed: int, progress: Callable[[str], None]) -> Coroutine[None, None, Round]:
        return network_round(folder, seed=seed, faults=faults, progress=progress)

    while len(book.rounds) < arguments.rounds:
        if not _played(book, arguments.seed, f"{len(book.rounds)} of {arguments.rounds} rounds", play):
            break
    return _end(book)


def _namespaces(arguments: argparse.Namespace) -> int:
    try:
        with Link():
            pass
    except Refused as refused:
        _say(f"SKIPPED: no network namespace: {refused}")
        return EXIT_KEPT
    book = _book(arguments, f"namespaces-{arguments.seed}-{'short' if arguments.short else 'long'}")
    seconds = IN_CI_SECONDS if arguments.short else BY_HAND_SECONDS

    def play(folder: Path, seed: int, progress: Callable[[str], None]) -> Coroutine[None, None, Round]:
        return namespace_round(folder, seed=seed, seconds=seconds, progress=progress)

    while len(book.rounds) < arguments.rounds:
        if not _played(book, arguments.seed, f"{len(book.rounds)} of {arguments.rounds} rounds", play):
            break
    return _end(book)


def _book(arguments: argparse.Namespace, name: str) -> Book:
    book = Book(arguments.state or STATE / f"{name}.jsonl")
    if book.rounds:
        _say(f"goes on after {len(book.rounds)} rounds in {book.path}")
    return book


def _played(book: Book, first_seed: int, so_far: str, play: Play) -> bool:
    """Play the next round and note it; whether everything held."""
    seed = first_seed + len(book.rounds)
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{seed}-"))
    one = uvloop.run(play(folder, seed, lambda text: show_progress(f"{so_far} | seed {seed}: {text}")))
    book.add(one)
    _say(one.line())
    if one.problems:
        _say(f"the cluster is in {folder}")
        return False
    shutil.rmtree(folder)
    return True


def _end(book: Book) -> int:
    book.close()
    text, code = report(book.rounds)
    _say(text)
    return code


def _say(text: str) -> None:
    clear_progress()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
