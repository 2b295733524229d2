"""``python -m tests.torture kills`` or ``network``: see ``--help``. Exit code 0: it held; 1: it broke; 2: void."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.torture.kills import kill_round
from tests.torture.rounds import Book, clear_progress, report, show_progress

KILLS_PER_ROUND = 25
STATE = Path("data/torture")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills", help="SIGKILL for any node, at any moment, under load")
    kills.add_argument("--kills", type=int, default=20)
    kills.add_argument("--acknowledged", type=int, default=10_000)
    kills.add_argument("--wrong", help="a planted bug that the run must find")
    kills.add_argument("--seed", type=int, default=1, help="of the first round; the others follow")
    kills.add_argument("--state", type=Path, help="where finished rounds are kept; a run is taken up from there")
    arguments = parser.parse_args()
    return _kills(arguments)


def _kills(arguments: argparse.Namespace) -> int:
    name = f"kills-{arguments.seed}-{arguments.wrong or 'product'}.jsonl"
    book = Book(arguments.state or STATE / name)
    if book.rounds:
        _say(f"goes on after {len(book.rounds)} rounds")
    while (left := arguments.kills - book.faults) > 0 or book.acknowledged < arguments.acknowledged:
        seed = arguments.seed + len(book.rounds)
        share = min(KILLS_PER_ROUND, max(left, 1))
        events = max(1000, -(-arguments.acknowledged * share // arguments.kills))
        folder = Path(tempfile.mkdtemp(prefix=f"torture-kills-{seed}-"))

        def progress(text: str, seed: int = seed) -> None:
            show_progress(
                f"round {len(book.rounds) + 1}, seed {seed}: {text}"
                f" | before: {book.faults} of {arguments.kills}, {book.acknowledged:,} of {arguments.acknowledged:,}"
            )

        one = uvloop.run(
            kill_round(folder, seed=seed, kills=share, acknowledged=events, wrong=arguments.wrong, progress=progress)
        )
        book.add(one)
        _say(one.line())
        if one.problems:
            _say(f"the cluster is in {folder}")
            break
        shutil.rmtree(folder)
    return _end(book)


def _end(book: Book) -> int:
    text, code = report(book.rounds)
    _say(text)
    return code


def _say(text: str) -> None:
    clear_progress()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
