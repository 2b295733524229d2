"""The tokens file is followed while a node runs, as in common/token_watch.py: a real folder, a real watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.slices import Micros
from common.token_watch import TokenWatch
from common.tokens import Scope, Tokens, entry_of, new_token, parse_tokens, write_entries
from tests.support.patience import eventually

NOW = Micros(1_495_238_400_000_000)


class Told:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Any level."""
        self.lines.append((event, fields))

    warning = error = info

    def debug(self, event: str, **fields: Any) -> None:
        """Not kept: each look that finds nothing new says so."""


class Node:
    """What a node brings to its watch."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"
        self.told: Any = Told()
        self.published: list[tuple[Path, int]] = []

    def write(self, tokens: int, *, path: Path | None = None) -> None:
        """A file with so many tokens."""
        entries = [entry_of(new_token(), name=f"t{n}", scopes=[Scope.READ]) for n in range(tokens)]
        write_entries(path or self.path, entries)

    def known(self) -> Tokens:
        """What is in the file now."""
        return parse_tokens(self.path.read_bytes())

    @asynccontextmanager
    async def running(self, *, every: float = 60) -> AsyncIterator[TokenWatch]:
        """Watch a file with one token."""
        self.write(1)
        async with TokenWatch(
            path=self.path,
            tokens=self.known(),
            publish=lambda path, tokens: self.published.append((path, len(tokens.by_digest))),
            every=lambda: every,
            log=self.told,
            now=lambda: NOW,
        ) as watch:
            yield watch

    def events(self) -> list[str]:
        """What was logged, in its order."""
        return [event for event, _ in self.told.lines if event != "folder_not_watched"]


async def test_a_changed_file_is_published(tmp_path: Path) -> None:
    """Within moments, by the kernel's word."""
    node = Node(tmp_path)
    async with node.running() as watch:
        node.write(2)
        await eventually(lambda: so(node.published == [(node.path, 2)]))

    assert watch.tokens is not None
    assert len(watch.tokens.by_digest) == 2
    assert node.told.lines[-1][0] == "tokens_file_accepted"
    assert node.told.lines[-1][1]["tokens"] == 2


async def so(what: bool) -> None:  # noqa: FBT001 - it is what is asserted
    """For what is waited for."""
    assert what


async def test_a_bad_file_is_refused_once_and_changes_nothing(tmp_path: Path) -> None:
    """However often it is looked at; what was known stays known, and the good file takes the refusal away."""
    node = Node(tmp_path)
    async with node.running(every=0.02) as watch:
        good = node.path.read_bytes()
        node.path.write_bytes(b"[7]")
        await eventually(lambda: so(watch.refusal is not None))
        assert watch.refusal is not None
        assert watch.refusal.at == NOW
        assert watch.refusal.reasons == ('tokens-file: [0]: must be an object with "name", "hash" and "scopes"',)
        looks = asyncio.get_running_loop().time() + 0.2
        await eventually(lambda: so(asyncio.get_running_loop().time() > looks))
        node.path.write_bytes(good)
        await eventually(lambda: so(watch.refusal is None))

    assert (watch.refusals, node.published) == (1, [])
    assert node.events() == ["tokens_file_refused", "tokens_file_as_running"]


async def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Also if it was fine at the start."""
    node = Node(tmp_path)
    async with node.running(every=0.02) as watch:
        node.path.chmod(0o644)
        await eventually(lambda: so(watch.refusal is not None))

    assert watch.refusal is not None
    assert "has mode 0644" in watch.refusal.reasons[0]


async def test_a_file_that_goes_is_refused(tmp_path: Path) -> None:
    """Nobody is locked out, or let in, by a file that is being moved."""
    node = Node(tmp_path)
    async with node.running(every=0.02) as watch:
        node.path.unlink()
        await eventually(lambda: so(watch.refusal is not None))

    assert node.published == []


async def test_another_file_is_followed_from_then_on(tmp_path: Path) -> None:
    """And the one before it no more; none is none."""
    node = Node(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    path = other / "tokens.json"
    async with node.running() as watch:
        node.write(3, path=path)
        await watch.follow(path, parse_tokens(path.read_bytes()))
        node.write(5)
        node.write(4, path=path)
        await eventually(lambda: so(node.published == [(path, 4)]))
        await watch.follow(None, None)
        node.write(6, path=path)

    assert node.published == [(path, 4)]
    assert watch.tokens is None
