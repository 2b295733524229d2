"""``python -m worker_node ID [CLUSTER_FILE] [--data DIR]``: run one worker of a cluster."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from common.errors import EXIT_USAGE
from common.logs import FORMS, Form
from common.routing import WorkerId
from common.web import run_process
from worker_node.app import Place, run


@click.command(name="python -m worker_node")
@click.argument("worker_id", metavar="ID")
@click.argument("cluster_file", type=click.Path(path_type=Path), default=Path("etc/cluster.json"))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The data directory; data/worker-ID in the working directory by default.",
)
@click.option(
    "--log-format",
    "log_form",
    type=click.Choice(FORMS),
    default=FORMS[0],
    show_default=True,
    help="How lines of the log are written.",
)
def command(worker_id: str, cluster_file: Path, data: Path | None, log_form: Form) -> int:
    """Run worker ID of the cluster that CLUSTER_FILE (etc/cluster.json by default) describes."""
    folder = data if data is not None else Path("data") / f"worker-{worker_id}"
    place = Place(worker=WorkerId(worker_id), cluster_file=cluster_file, folder=folder.absolute(), log_form=log_form)
    return run_process(partial(run, place))


def main() -> None:
    """Parse the command line, run, and exit with the code that tells how it ended."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    sys.exit(code)


if __name__ == "__main__":
    main()
