"""Checks that every relative link in the project's Markdown files leads to a file or folder of the project.

Anchors and links to other sites are not checked: the first change too often to be worth it, the second need a network.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def broken_links(page: Path) -> list[str]:
    """The links of one page that lead nowhere."""
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in links if not (page.parent / link).exists()]


def main() -> int:
    """Returns the number of pages with broken links, each of them named."""
    pages = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})
    broken = {page.relative_to(ROOT): links for page in pages if (links := broken_links(page))}
    for page, links in broken.items():
        sys.stderr.write(f"{page}: {', '.join(links)}\n")
    sys.stderr.write(f"{len(pages)} pages, {len(broken)} with broken links\n")
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())
