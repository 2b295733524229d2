"""``python -m worker_node.verify_file FILE``: is the file of a slice, which nobody has open, as it was written?

Exit code 0 if it is; 3 if it is not, with what is wrong on standard output; anything else (Python itself leaves with 1
and 2): that cannot be told.
A process of its own, at the lowest priority: it reads every page of the file, in Python.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from common.lmdb_file import Damaged, damage_of
from common.slices import SliceId
from worker_node.slice_store import SliceStore

SOUND, DAMAGED = 0, 3
_LEAST_PRIORITY = 19
_PROBLEMS_MAX = 5  # the first one tells the most


def problems_of(path: Path) -> list[str]:
    """What is wrong with the file: its structure first, then whether what is in it adds up; empty if nothing is."""
    problems = damage_of(path)
    if problems:
        return problems
    try:
        store = SliceStore.open(path, SliceId(int(path.stem)))
        if store is None:
            return []
        try:
            return store.problems()
        finally:
            store.close()
    except Damaged as damage:
        return [str(damage)]


def main() -> int:
    """Verify the file that the command line names."""
    os.nice(_LEAST_PRIORITY)
    try:
        problems = problems_of(Path(sys.argv[1]))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        problems = ["the disk cannot read it"]
    sys.stdout.write("".join(f"{text}\n" for text in problems[:_PROBLEMS_MAX]))
    return DAMAGED if problems else SOUND


if __name__ == "__main__":
    sys.exit(main())
