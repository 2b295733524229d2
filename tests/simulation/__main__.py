"""``python -m tests.simulation --histories N --seed S --jobs 2``: play histories; ``--only SEED``: play one, and tell.

A run may be stopped with Ctrl-C: it says with which seed to go on. Exit status: 0 all is well, 1 a history is broken,
2 the run proves nothing (too few events were acknowledged), 130 stopped.
"""

from __future__ import annotations

import sys
import time

import click

from tests.simulation.history import run
from tests.simulation.runner import Report, parts_of, run_many

EXIT_BROKEN, EXIT_VOID, EXIT_STOPPED = 1, 2, 130


@click.command()
@click.option("--histories", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first history; the others follow.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--only", type=int, help="Play the history of this seed alone, and tell what happens in it.")
@click.option("--planted", help="The name of a wrong part under tests/simulation/planted to swap in.")
def main(histories: int, seed: int, jobs: int, only: int | None, planted: str | None) -> None:
    """Play histories of a whole cluster, and check that it kept its promise."""
    if only is not None:
        sys.exit(_tell_one(only, planted))
    sys.exit(_run(histories, seed, jobs, planted))


def _tell_one(seed: int, planted: str | None) -> int:
    trace: list[str] = []
    outcome = run(seed, parts=parts_of(planted), trace=trace)
    click.echo("\n".join(trace))
    click.echo(f"{outcome.steps} steps, {outcome.acknowledged} events acknowledged: {outcome.broken or 'well'}")
    return EXIT_BROKEN if outcome.broken else 0


def _run(histories: int, seed: int, jobs: int, planted: str | None) -> int:
    started = time.monotonic()
    so_far = Report()
    told: set[int] = set()

    def tell(report: Report) -> bool:
        nonlocal so_far
        for one in [one for one in report.broken if one.seed not in told]:
            # At once: a long run may be stopped before its end.
            told.add(one.seed)
            click.echo(f"\nbroken: --only {one.seed}: {one.broken}")
        so_far = report
        rate = report.histories / (time.monotonic() - started)
        left = (histories - report.histories) / rate
        line = f"{report.histories} of {histories} histories, {rate:.0f}/s, {report.acknowledged} events acknowledged, "
        click.echo(f"\r{line}{len(report.broken)} broken, {left:.0f} s left ", err=True, nl=False)
        return True

    try:
        report = run_many(histories, seed=seed, jobs=jobs, planted=planted, tell=tell)
    except KeyboardInterrupt:
        click.echo(f"\n{so_far.text()}")
        left = histories - so_far.histories
        click.echo(f"stopped; go on with --seed {seed + so_far.histories} --histories {left}")
        return EXIT_BROKEN if so_far.broken else EXIT_STOPPED
    click.echo("", err=True)
    click.echo(report.text())
    if report.broken:
        click.echo(f"replay with --only {report.broken[0].seed}")
        return EXIT_BROKEN
    if (why := report.void()) is not None:
        click.echo(f"void: {why}")
        return EXIT_VOID
    return 0


if __name__ == "__main__":
    main()
