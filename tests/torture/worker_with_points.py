"""A worker that kills itself at a point: ``ID FILE --data DIR --point POINT --nth N``, or that is ``--wrong``.

Everything but the swapped stores is the product, built by its own composition root.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from common.routing import WorkerId
from common.web import run_process
from tests.torture.points import Point, Trap, trapped
from tests.torture.wrong import WRONG
from worker_node.app import Place, run


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.worker_with_points", description=__doc__)
    parser.add_argument("worker", metavar="ID")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--point", type=Point, choices=list(Point))
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--wrong", choices=sorted(WRONG))
    found = parser.parse_args()
    parts = WRONG[found.wrong] if found.wrong else trapped(Trap(found.point, found.nth))
    place = Place(worker=WorkerId(found.worker), cluster_file=found.file, folder=found.data)
    return run_process(partial(run, place, parts=parts))


if __name__ == "__main__":
    sys.exit(main())
