"""JSON5 read strictly: what pyjson5 reads, and the two things it keeps to itself.

Keys given twice are told (of two URLs for one worker, one would silently win), and an error names its line.
The text that pyjson5 accepted is walked once more, token by token, with the path of each key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyjson5

_TOKEN = re.compile(
    r"""
    (?P<skipped> //[^\n\r\u2028\u2029]* | /\*.*?\*/ | [\s\ufeff]+ )
  | (?P<mark>    [{}\[\]:,] )
  | (?P<value>   "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' | (?:[^\s\ufeff"'{}\[\]:,/]|/(?![/*]))+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$-]*", re.ASCII)
_NEAR = re.compile(r" (?:starting )?near ([0-9]+)")


class Json5Refused(ValueError):
    """The bytes are not JSON5; the message says why, and in which line."""


def read(content: bytes) -> tuple[Any, list[str]]:
    """The value that a text of JSON5 stands for, and the paths of the keys that it gives twice.

    Raises:
        Json5Refused: it is not UTF-8, or not JSON5.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Json5Refused(f"is not UTF-8: byte {error.start} cannot be read") from None
    try:
        value = pyjson5.decode(text)
    except pyjson5.Json5DecoderException as error:
        raise Json5Refused(f"is not JSON5: {with_line(str(error.message), text)}") from None
    return value, list(_keys_given_twice(text))


def join_path(path: str, key: str) -> str:
    """The path of a key within the object at a path: ``a.b``, or ``a["0"]`` where the key is no plain word."""
    if _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}" if path else key
    return f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def with_line(message: str, text: str) -> str:
    """Pyjson5 counts characters; people count lines."""
    if (near := _NEAR.search(message)) is None:
        return message
    line = text.count("\n", 0, int(near.group(1))) + 1
    # It shows what it expected as Python bytes: b'object'.
    return f"line {line}: {_NEAR.sub('', message)}".replace("b'", "'")


@dataclass(slots=True)
class _Inside:
    """An object or array that is open while the text is walked."""

    path: str
    is_object: bool
    key: str = ""
    index: int = 0
    key_comes: bool = True
    keys: set[str] = field(default_factory=set)

    @property
    def here(self) -> str:
        """The path of the value that comes next."""
        return join_path(self.path, self.key) if self.is_object else f"{self.path}[{self.index}]"


def _keys_given_twice(text: str) -> Iterator[str]:
    stack = [_Inside("", is_object=False)]  # the document, as if it stood in an array without a path
    for match in _TOKEN.finditer(text):
        piece, top = match.group(), stack[-1]
        if match.lastgroup == "skipped":
            continue
        if piece in ("{", "["):
            path = top.here if len(stack) > 1 else ""
            stack.append(_Inside(path, is_object=piece == "{"))
        elif piece in ("}", "]"):
            stack.pop()
        elif piece == ",":
            top.index, top.key_comes = top.index + 1, True
        elif top.is_object and top.key_comes and piece != ":":
            # As pyjson5 reads it: quoted either way, bare, or with escapes.
            top.key, top.key_comes = next(iter(pyjson5.decode(f"{{{piece}:0}}"))), False
            if top.key in top.keys:
                yield top.here
            top.keys.add(top.key)
