"""How the fields of an event are read from a form in parts (``multipart/form-data``, RFC 7578), strictly.

::

    --boundary CRLF
    Content-Disposition: form-data; name="user" CRLF         name -+
    CRLF                                                           +--> ("user", "ada")
    ada                                                     value -+
    CRLF --boundary CRLF ...
    CRLF --boundary-- CRLF                                   the end, nothing behind it

The library finds the parts. What it would read generously is read here, or refused: text before the first part and
behind the last, files, any encoding but UTF-8, and backslashes in names: whether one escapes what follows depends on
the client, and nobody can tell.
"""

from __future__ import annotations

import re

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from common.errors import Malformed
from common.events import FIELDS_MAX, Field

MULTIPART = "multipart/form-data"

_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
# Behind a media type or a disposition: parameters whose values are tokens, or quoted without anything escaped.
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_WORD})=(?:({_WORD})|"([^"\\\r\n]*)")[ \t]*')
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]")  # RFC 2046, 5.1.1
# What an encoding may be called that leaves the bytes as they are.
_AS_THEY_ARE = frozenset({"7bit", "8bit", "binary"})
# What browsers write for the only characters that cannot stand between quotes (WHATWG HTML, multipart/form-data).
_ESCAPED = {"%22": '"', "%0D": "\r", "%0A": "\n"}


def read_multipart(body: bytes, content_type: str) -> list[Field]:
    """Read a form in parts: the name and the text of each, in their order; what is given twice is there twice.

    Args:
        body: all of it.
        content_type: the header of the request, with the boundary.

    Raises:
        Malformed: it is not such a form from its first byte to its last, names or values are not UTF-8, a part is a
            file, or there are too many.
    """
    boundary = _boundary(content_type)
    _check_ends(body, boundary)
    fields: list[Field] = []
    name, value = "", b""
    try:
        with PushMultipartParser(boundary, header_charset="utf-8", strict=True) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    if len(fields) == FIELDS_MAX:
                        message = f"there are more than {FIELDS_MAX} fields"
                        raise Malformed(message)
                    name, value = _name(event), b""
                elif event is None:
                    fields.append((name, value.decode()))
                else:
                    value += event
    except UnicodeError:
        message = "the body is not UTF-8"
        raise Malformed(message) from None
    except MultipartError:
        # From None: some of the library's messages quote the input.
        message = "the body is not a whole multipart form with the boundary of its Content-Type"
        raise Malformed(message) from None
    return fields


def _boundary(content_type: str) -> bytes:
    media_type, parameters = _split(content_type)
    if media_type != MULTIPART or parameters is None:
        message = f"Content-Type is not {MULTIPART} with a boundary"
        raise Malformed(message)
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        message = f"{MULTIPART} needs a boundary of 1 to 70 characters that RFC 2046 allows"
        raise Malformed(message)
    _check_charset(parameters)
    return boundary.encode()


def _check_ends(body: bytes, boundary: bytes) -> None:
    """The library lets anything stand before the first boundary and behind the last, which nobody would then miss."""
    last = b"--" + boundary + b"--"
    end = 0 if body.startswith(last) else body.find(b"\r\n" + last) + 2  # the first that ends a form; no part holds one
    if not body.startswith(b"--" + boundary) or body[end:].removesuffix(b"\r\n") != last:
        message = "the body does not begin and end with the boundary of its Content-Type"
        raise Malformed(message)


def _name(part: MultipartSegment) -> str:
    """The name of a part that is a field, and in no way anything else."""
    headers = dict(part.headerlist)
    if len(headers) < len(part.headerlist):
        message = "a part of the form has a header twice"
        raise Malformed(message)
    disposition, parameters = _split(headers["Content-Disposition"])
    if disposition != "form-data" or parameters is None or "name" not in parameters or "name*" in parameters:
        message = 'a part of the form is not Content-Disposition: form-data; name="..." without anything escaped by \\'
        raise Malformed(message)
    if "filename" in parameters or "filename*" in parameters:
        message = "a part of the form is a file; an event has none"
        raise Malformed(message)
    encoding = headers.get("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in _AS_THEY_ARE or "Content-Encoding" in headers:
        message = "a part of the form is encoded; send it as it is"
        raise Malformed(message)
    if "Content-Type" in headers:
        _, of_type = _split(headers["Content-Type"])
        if of_type is None:
            message = "a part of the form has a Content-Type that cannot be read"
            raise Malformed(message)
        _check_charset(of_type)
    return re.sub("%22|%0D|%0A", lambda found: _ESCAPED[found[0]], parameters["name"])


def _check_charset(parameters: dict[str, str]) -> None:
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        message = "the form is not UTF-8"
        raise Malformed(message)


def _split(header: str) -> tuple[str, dict[str, str] | None]:
    """The first word of a header in lower case, and its parameters; None if they are not of their form, or repeated."""
    word = header.partition(";")[0]
    at = len(word)
    found: dict[str, str] = {}
    while at < len(header):
        one = _PARAMETER.match(header, at)
        if one is None or one[1].lower() in found:
            return word, None
        found[one[1].lower()] = one[2] if one[2] is not None else one[3]
        at = one.end()
    return word.strip().lower(), found
