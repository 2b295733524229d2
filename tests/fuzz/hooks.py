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
    """Let one type and one place of each field stand."""
    if case.method != "POST" or case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    # Nothing here would make of a body what another coding says it is.
    if case.headers and case.headers.get("Content-Encoding", "identity") != "identity":
        del case.headers["Content-Encoding"]
    places = [fields for fields in (case.body, case.query) if isinstance(fields, dict)]
    seen: set[str] = set()
    for fields in places:
        for name in [*fields]:
            field = "type" if name in TYPES else name
            if field in seen:
                del fields[name]
            seen.add(field)
    return case
