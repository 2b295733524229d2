"""An API node that kills itself at a point of its spool: ``ID FILE --data DIR --point POINT --nth N``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from api_node.app import run_node
from common.web import NodeArguments, run_process
from tests.torture.points import OF_API_NODES, Point, Trap, trapped_room


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.api_with_points", description=__doc__)
    parser.add_argument("node", metavar="ID")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--point", type=Point, choices=OF_API_NODES, required=True)
    parser.add_argument("--nth", type=int, default=1)
    found = parser.parse_args()
    arguments = NodeArguments(node=found.node, cluster_file=found.file, data=found.data)
    room = trapped_room(Trap(found.point, found.nth))
    return run_process(lambda stop: run_node(arguments, stop, make_room=room))


if __name__ == "__main__":
    sys.exit(main())
