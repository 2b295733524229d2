"""The documentation as data: pages, fenced blocks, the examples in them, and tables.

A ``console`` block is an example that is run: a line that begins with ``$ `` is a command (a backslash at its end
carries it on), what stands between it and the next command is all that it must print, and ``...`` stands for anything
within a line or, alone, for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})

_FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: what its fence says, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A command of a ``console`` block, and what the page says that it prints."""

    command: str
    printed: str
    line: int

    def agrees(self, output: str) -> bool:
        """Whether that is what the page says."""
        lines = self.printed.splitlines(keepends=True)
        pattern = "".join(
            r"(?:.*\n)*" if line.strip() == "..." else ".*".join(map(re.escape, line.split("..."))) for line in lines
        )
        # What ends without a line feed is shown with one: the next prompt would stand behind it otherwise.
        whole = output if output.endswith("\n") or not output else f"{output}\n"
        return re.fullmatch(pattern, whole) is not None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a page: the words above its columns, and its rows."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def names(self) -> list[str]:
        """What stands in code in the first column, in the order of the rows."""
        return [name for row in self.rows for name in _CODE.findall(row[0])]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    content = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(content):
        line = content.count("\n", 0, match.start("text")) + 1
        yield Block(language=match["language"].strip(), text=match["text"], line=line)


def examples(page: Path) -> list[Example]:
    """The commands of all ``console`` blocks of a page, in order."""
    return [example for block in blocks(page) if block.language == "console" for example in _examples_in(block)]


def _examples_in(block: Block) -> Iterator[Example]:
    lines = block.text.splitlines(keepends=True)
    assert lines[0].startswith("$ "), f"line {block.line}: a console block begins with a command"
    starts = [at for at, line in enumerate(lines) if line.startswith("$ ")]
    for start, after in zip(starts, [*starts[1:], len(lines)], strict=True):
        end = start + 1
        while lines[end - 1].endswith("\\\n"):
            end += 1
        command = "".join(lines[start:end]).removeprefix("$ ")
        yield Example(command=command, printed="".join(lines[end:after]), line=block.line + start)


def tables(page: Path) -> list[Table]:
    """The tables of a page, without those in fenced blocks."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: list[Table] = []
    rows: list[tuple[str, ...]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1]))
        elif rows:
            found.append(Table(rows[0], tuple(rows[2:])))
            rows = []
    return found


def names_under(head: str, page: Path) -> list[str]:
    """What stands in code in the first column of all tables of the page that have this word above it."""
    return [name for table in tables(page) if table.heads[0] == head for name in table.names()]


def section(page: Path, heading: str) -> str:
    """What stands below a heading, up to the next one of any level."""
    pattern = rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)"
    match = re.search(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert match is not None, f"{page.name} has no section {heading}"
    return match[1]
