"""Links within the documentation lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import PAGES, ROOT

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What links into a page may name: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files() -> None:
    """As `make docs` says."""
    run = subprocess.run([sys.executable, ROOT / "scripts/check_links.py"], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings(page: Path) -> None:
    """A link with an anchor names a heading that is there."""
    for file, anchor in LINK.findall(page.read_text()):
        target = (page.parent / file).resolve() if file else page

        assert anchor in anchors(target), f"{file}#{anchor}"


def test_the_readme_names_every_page() -> None:
    """Whoever begins at the README finds all there is."""
    text = (ROOT / "README.md").read_text()

    assert [page.name for page in ROOT.glob("docs/*.md") if f"](docs/{page.name})" not in text] == []
