"""``python -m api_node ID [CLUSTER_FILE] [--data DIR] [--processes N]``."""

from __future__ import annotations

import sys

from api_node.app import run_node
from api_node.processes import Processes
from common.web import read_arguments, run_process


def main() -> int:
    """Run an API node; the exit code."""
    arguments = read_arguments("api")
    if arguments.processes > 1 and arguments.share is None:
        processes = Processes(arguments)
        return run_process(processes.run) or processes.worst
    return run_process(lambda stop: run_node(arguments, stop))


if __name__ == "__main__":
    sys.exit(main())
