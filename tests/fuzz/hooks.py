"""What the fuzzer is told beyond the document.

Lines of JSON go out as they are, or as a line each. And of the cases that are to be taken, those of single events are
made such that they can be: the document cannot say that a field stands in the query or in the body, and that there is
exactly one type.
"""

from __future__ import annotations

import json
from typing import Any

import schemathesis

from api_node.routes.events import NDJSON

TYPES = ("event", "click", "impression")
MISSING = {"type": ("click", ""), "timestamp": ("timestamp", "2017-05-20T01:00:00Z"), "user": ("user", "ada")}
CODINGS = ("gzip", "deflate", "zstd")


def _line(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    return json.dumps(value).encode()


@schemathesis.serializer(*sorted(NDJSON))
def lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """The schema says text, but a case that is to be refused may be anything."""
    return b"\n".join(map(_line, value)) if isinstance(value, list) else _line(value)


@schemathesis.hook
def map_case(_: schemathesis.HookContext, case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """Let each field stand once, and none be missing."""
    # Nothing here makes of a body what a coding says it is: that would be the end of nearly all cases.
    if case.headers and case.headers.get("Content-Encoding") in CODINGS:
        del case.headers["Content-Encoding"]
    if case.path != "/analytics" or case.method != "POST" or case.meta is None:
        return case
    if not case.meta.generation.mode.is_positive:
        return case
    places = [fields for fields in (case.body, case.query) if isinstance(fields, dict)]
    seen: set[str] = set()
    for fields in places:
        for name in [*fields]:
            field = "type" if name in TYPES else name
            if field in seen:
                del fields[name]
            seen.add(field)
    for field, (name, value) in MISSING.items():
        if places and field not in seen:
            places[0][name] = value
    return case
