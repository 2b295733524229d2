"""The types of requests and answers as schemas of the document, made from the types themselves.

::

    type that decodes or is answered --msgspec--> schema --+-- what its docstring says of each attribute
                                                           +-- what is checked beyond the type: FORMS

A single event is read field by field, by hand (``common/events.py``), so its schema is made of FORMS alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from api_node.answers import AllSlices, BulkProblem, ClusterState, PerWorker, Problem, SliceSummary
from api_node.bulk import Report
from common.events import (
    CLASSIC_TYPES,
    EVENT,
    EVENT_TYPE,
    FIELDS_MAX,
    ID,
    RESERVED_TYPES,
    TEXT_BYTES_MAX,
    TIMESTAMP,
    USER,
)
from common.lines import LINES_MAX, NAMES, Line
from common.slices import EARLIEST, INSTANT_PATTERN, SECOND

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"

FORMS: dict[str, Schema] = {
    TIMESTAMP: {"pattern": INSTANT_PATTERN},
    # In characters; what is bounded are the bytes of their UTF-8, which no schema can count.
    USER: {"minLength": 1, "maxLength": TEXT_BYTES_MAX},
    ID: {"minLength": 1, "maxLength": TEXT_BYTES_MAX},
    EVENT: {"pattern": f"^{EVENT_TYPE.pattern}$", "not": {"enum": sorted(RESERVED_TYPES)}},
}
"""What is checked of each field, beyond its type."""
# Of a timestamp that is a number: from the year 1 in seconds, to the most that thirteen digits of milliseconds say.
_NUMBERS = {"minimum": EARLIEST // SECOND, "maximum": 10**13 - 1}

MEANINGS = {
    TIMESTAMP: "When it happened: Unix seconds (a fraction is allowed), 13-digit milliseconds, or RFC 3339 with an "
    "offset, in the years 1 to 9999. A number is written without an exponent.",
    USER: f"Who did it: 1 to {TEXT_BYTES_MAX} bytes of UTF-8, compared byte for byte.",
    EVENT: "The type by name, one that the cluster accepts: click and impression, unless `event-types` of its file "
    "says otherwise.",
    ID: f"1 to {TEXT_BYTES_MAX} bytes of UTF-8. A repeat of the same id, user, type and timestamp counts once.",
}
FLAG = "The type as a flag; its value is ignored."

_PACKAGES = ("api_node.", "common.")
_ANSWERS = (Problem, BulkProblem, SliceSummary, PerWorker, AllSlices, ClusterState, Report)


def ref(name: str) -> Schema:
    """A reference to a schema."""
    return {"$ref": _REF.format(name=name)}


def schemas() -> dict[str, Schema]:
    """All of them, by name."""
    _, found = msgspec.json.schema_components([*_ANSWERS, Line], ref_template=_REF)
    # Where a name stands for several types, those of a node are meant.
    kinds = {kind.__name__: kind for kind in _subclasses(msgspec.Struct) if kind.__module__.startswith(_PACKAGES)}
    for name, schema in found.items():
        _describe(schema, kinds[name])
    found["EventLine"] = _line(found.pop(Line.__name__))
    found["EventLineForm"] = _as_form(found["EventLine"])
    found["Events"] = {
        "description": f"At most {LINES_MAX} events, or one.",
        "anyOf": [{"type": "array", "items": ref("EventLine"), "minItems": 1, "maxItems": LINES_MAX}, ref("EventLine")],
    }
    found["Event"] = _single({"type": ["number", "string"], **_NUMBERS}, {"not": {"enum": [False, None]}})
    found["EventForm"] = _single({"type": "string"}, {"type": "string"})
    return dict(sorted(found.items()))


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _describe(schema: Schema, kind: type[Any]) -> None:
    """Put what a docstring says where it belongs, instead of the docstring as it is."""
    summary, _, rest = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    schema["description"] = " ".join(summary.split())
    for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", rest, re.MULTILINE):
        if name in schema["properties"]:
            # Not into a reference: some readers take only that, and leave out what stands beside it.
            schema["properties"][name] = {**schema["properties"][name], "description": " ".join(text.split())}


def _line(schema: Schema) -> Schema:
    """An event of many: what the decoder accepts, and what is checked of it."""
    properties = {}
    for field, names in NAMES.items():
        for name in names:
            also = "" if name == field else f" Another name for `{field}`."
            properties[name] = {
                **_without(schema["properties"][name], "default"),
                **FORMS[field],
                **(_NUMBERS if field == TIMESTAMP else {}),
                "description": MEANINGS[field] + also,
            }
    return {
        "title": "EventLine",
        "type": "object",
        "description": "One event of many. A field under two of its names is an error; null is as good as left out. "
        "Other members are properties: accepted, and dropped.",
        "properties": properties,
        "allOf": [
            {"oneOf": [{"required": [name]} for name in NAMES[field]]}
            if len(NAMES[field]) > 1
            else {"required": [field]}
            for field in (TIMESTAMP, USER, EVENT)
        ],
    }


def _as_form(line: Schema) -> Schema:
    """The same fields as text, of one event."""
    members = {
        name: {"type": "string"} | _without(what, "anyOf", *_NUMBERS) for name, what in line["properties"].items()
    }
    return {
        **line,
        "title": "EventLineForm",
        "description": "One event as a form. A field given twice, or under two of its names, is an error. Other fields "
        "are properties: accepted, and dropped.",
        "properties": members,
        "maxProperties": FIELDS_MAX,
    }


def _without(schema: Schema, *names: str) -> Schema:
    return {key: value for key, value in schema.items() if key not in names}


def _single(timestamp: Schema, flag: Schema) -> Schema:
    """One event whose fields are read one by one."""
    kinds = {TIMESTAMP: timestamp, USER: {"type": "string"}, EVENT: {"type": "string"}, ID: {"type": "string"}}
    flags = sorted(CLASSIC_TYPES)
    return {
        "type": "object",
        "description": "One event. Exactly one type: by its name in `event`, or as a flag (click, impression, or "
        "another that the cluster file lists). Fields may stand in the query instead. Other fields are properties: "
        "accepted, and dropped.",
        "properties": {
            **{name: {**kind, **FORMS[name], "description": MEANINGS[name]} for name, kind in kinds.items()},
            **{name: {**flag, "description": FLAG} for name in flags},
        },
        "maxProperties": FIELDS_MAX,
    }
