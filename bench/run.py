"""``python -m bench.run``, which ``make bench`` calls: measures, prints one table, writes the report and its plots.

Units of a group alternate: each is measured once, then each once more, so that what else happens on the machine falls
on all of them. Each measurement starts its servers anew, in an empty folder; nothing else of ours runs meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench import machine
from bench.groups import alone, feeding, growth, questions, rates
from bench.groups.unit import Scale, Unit
from bench.journal import Entry, Journal, Results
from bench.report import report, summary
from bench.servers import ROOT, PeerFailed, claim_data_folder, data_folder

GROUPS: dict[str, Callable[[Scale], list[Unit]]] = {
    "idle": alone.idle,
    "bulk": feeding.bulk,
    "single": feeding.single,
    "questions": questions.questions,
    "growth": growth.growth,
    "rates": rates.rates,
    "sizes": feeding.sizes,
    "workers": alone.workers,
}
RESULTS = ROOT / "bench" / "results"
EXIT_USAGE, EXIT_FAILED = 64, 1


async def measure(units: Sequence[Unit], journal: Journal) -> int:
    """Measure what is not in the journal yet; how many failed."""
    failed = 0
    for round_ in range(max((unit.rounds for unit in units), default=0)):
        for unit in units:
            if round_ >= unit.rounds or journal.has(unit.group, unit.name, round_):
                continue
            load, started = os.getloadavg()[0], time.monotonic()
            print(f"{datetime.now():%H:%M:%S} {unit.group} {unit.name}, round {round_ + 1}: ", end="", flush=True)  # noqa: DTZ005 - for whoever watches
            try:
                results = await unit.measure()
            except Exception as error:  # noqa: BLE001 - one row that fails must not take the others with it
                failed += 1
                print(f"FAILED: {type(error).__name__}: {error}", flush=True)
                continue
            print(f"{summary(results)} ({time.monotonic() - started:.0f} s)", flush=True)
            journal.add(
                Entry(
                    group=unit.group,
                    unit=unit.name,
                    round=round_,
                    at=datetime.now(tz=UTC).isoformat(timespec="seconds"),
                    commit=machine.commit(),
                    load=round(load, 2),
                    results=tuple(results),
                )
            )
    return failed


async def run(names: Sequence[str], scale: Scale, journal: Journal) -> int:
    """Measure groups, one after the other; how many measurements failed. Ctrl-C ends it in good order."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, task.cancel)
    failed = 0
    for name in names:
        failed += await measure(GROUPS[name](scale), journal)
    return failed


def _quick(path: Path, *, quick: bool) -> Path:
    return path.with_stem(f"{path.stem}-quick") if quick else path


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--only", default="", help=f"groups, with commas between: {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="little of everything, in some minutes")
    parser.add_argument("--fresh", action="store_true", help="do not go on with a run that was broken off")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the report of what there is")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name] or list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        print(f"no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return EXIT_USAGE
    os.chdir(ROOT)
    data = data_folder()
    journal_file = _quick(data / "run.jsonl", quick=arguments.quick)
    failed = 0
    if not arguments.report:
        scale = Scale(quick=arguments.quick, at=int(time.time()))
        try:
            with claim_data_folder():
                if arguments.fresh:
                    journal_file.unlink(missing_ok=True)
                failed = uvloop.run(run(names, scale, Journal(journal_file)))
        except PeerFailed as error:
            print(error, file=sys.stderr)
            return EXIT_FAILED
        except (asyncio.CancelledError, KeyboardInterrupt):
            print("\nbroken off; the same command goes on", file=sys.stderr)
            return 128 + signal.SIGINT
    journal = Journal(journal_file)
    RESULTS.mkdir(exist_ok=True)
    whole = all(
        journal.has(unit.group, unit.name, round_)
        for group in GROUPS.values()
        for unit in group(Scale(quick=arguments.quick, at=0))
        for round_ in range(unit.rounds)
    )
    page = _quick(RESULTS / f"{datetime.now(tz=UTC):%Y-%m-%d}.md", quick=arguments.quick)
    part = page.with_stem(f"{page.stem}-part")
    for old in RESULTS.glob(f"{part.stem}*"):
        old.unlink()
    # A part never takes the place of a whole run of the same day.
    page = page if whole else part
    results = Results(journal.entries)
    text, table = report(results, journal.entries, page, data=data, quick=arguments.quick)
    page.write_text(text)
    if whole:
        # The next run is a new one.
        journal_file.rename(page.with_suffix(".jsonl"))
    print(f"\n{table}\n{page.relative_to(ROOT)}{'' if whole else ': not all groups are measured yet'}")
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
