"""Makes docs/images/watch.svg: what `tallyslice watch` shows of a cluster that runs and is fed.

In one terminal ``./testrun.sh``; a minute or two later in another one ``.venv/bin/python scripts/watch_picture.py``.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
import time
from pathlib import Path

from rich.console import Console

from common.slices import Micros
from tallyslice.questions import AnyNode, Questions
from tallyslice.target import find_target
from tallyslice.watch.look import Look, Seen
from tallyslice.watch.view import HEIGHT, WIDTH, screen

PICTURE = Path(__file__).parent.parent / "docs/images/watch.svg"
LOOKS = 40  # for a sparkline that shows something


async def look_at(urls: tuple[str, ...]) -> Seen:
    """What is known after so many looks."""
    target = find_target(cluster=None, urls=urls, token_file=None, ca=None)
    async with target.session() as session:
        nodes = AnyNode(target=target, questions=Questions(session=session))
        look = Look(nodes=nodes, now=lambda: Micros(time.time_ns() // 1000), timer=time.monotonic)
        for _ in range(LOOKS):
            await look.again()
            await asyncio.sleep(1)
        return await look.again()


def main() -> None:
    """Look, and draw."""
    seen = asyncio.run(look_at(tuple(sys.argv[1:]) or ("http://localhost:8000",)))
    console = Console(width=WIDTH, height=HEIGHT, record=True, file=io.StringIO(), force_terminal=True)
    console.print(screen(seen))
    picture = console.export_svg(title="tallyslice watch")
    # The fonts that rich names are elsewhere: whoever looks at the picture should not have to ask for them.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    PICTURE.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
