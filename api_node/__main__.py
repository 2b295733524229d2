"""``python -m api_node ID [CLUSTER_FILE] [--data DIR]``."""

from __future__ import annotations

import sys

from api_node.app import run_node
from common.web import read_arguments, run_process


def main() -> int:
    """Run an API node; the exit code."""
    arguments = read_arguments("api")
    return run_process(lambda stop: run_node(arguments, stop))


if __name__ == "__main__":
    sys.exit(main())
