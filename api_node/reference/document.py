"""The OpenAPI document: made once, at start, of the table of calls, the error tree and the types.

Nothing in it depends on the cluster file, so all nodes of one version answer the same.

An example stands where readers expect it: at the body, at the answer, as a command line. ``x-examples`` of a call tells
what belongs together: query, body, status and answer, by the example's name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from api_node.reference.examples import FORM, PROBLEM, Example
from api_node.reference.operations import ANY_CALL, HEADERS, OPERATIONS, Kind, Operation, Success
from api_node.reference.schemas import Schema, ref, schemas
from common.errors import Forbidden, NotHere, TooManyRequests, Unauthorized
from common.problems import MethodNotAllowed, problem_type
from common.release import release

_TEXT = """\
Tallyslice counts events and unique users per slice of time, exactly.

- Errors are `application/problem+json` (RFC 9457). They never quote what was sent.
- Any path of this document may have a slash at its end. `HEAD` is answered wherever `GET` is. A method that a path does
  not have is answered 405, with `Allow`; a path that there is not, 404.
- A request whose bytes are no HTTP, or whose query is not UTF-8, is 400 whatever it asks for.
- A request may bring an `X-Request-Id`: 1 to 64 of `A-Z a-z 0-9 _ . -`. Its problem has it, and so has the log where
  the fault is ours; without one, an id is drawn.
- Unknown parameters and fields are ignored; new members may come in answers.
"""

_TAGS = {
    "events": "Events in.",
    "summaries": "Questions out.",
    "operation": "For those who run a cluster.",
}


def document() -> Schema:
    """All of it."""
    paths: dict[str, Schema] = {}
    responses: dict[str, Schema] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one, responses)
    for kind in (NotHere, MethodNotAllowed):
        responses[kind.slug] = _problem([kind])
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Tallyslice",
            "summary": "Counts events in real time, exactly, without knowing who anybody is.",
            "description": _TEXT,
            "version": release(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This node; any API node will do for any call."}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": dict(sorted(responses.items())),
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token with the scope that a call names, where the cluster file asks for tokens.",
                }
            },
        },
    }


def _operation(one: Operation, responses: dict[str, Schema]) -> Schema:
    shown: Schema = {
        "operationId": one.name,
        "tags": [one.tag],
        "summary": one.summary,
        **({"description": one.text} if one.text else {}),
        # With nothing, or with a token: whether one is needed is the cluster file's to say.
        "security": [{}] if one.scope is None else [{}, {"bearer": [one.scope]}],
    }
    if one.parameters:
        shown["parameters"] = [_with_example(parameter, one.examples) for parameter in one.parameters]
    if one.bodies:
        contents = {
            kind: {
                "schema": schema,
                **_examples((each.name, each.summary, each.body) for each in one.examples if each.body_type == kind),
            }
            for kind, schema in one.bodies.items()
        }
        shown["requestBody"] = {"required": one.body_needed, "content": contents}
    shown["responses"] = _responses(one, responses)
    shown["x-codeSamples"] = [
        {"lang": "Shell", "label": each.summary, "source": curl(one, each)} for each in one.examples
    ]
    shown["x-examples"] = {
        each.name: {
            "query": each.query,
            "status": each.status,
            **({} if each.body_type is None else {"body": each.body_type}),
            **({} if each.answer_type is None else {"answer": each.answer_type}),
        }
        for each in one.examples
    }
    return shown


def _with_example(parameter: Schema, examples: Iterable[Example]) -> Schema:
    """One is enough at a parameter; it comes from a call that succeeds."""
    name = parameter["name"]
    values = [each.query[name] for each in examples if name in each.query and each.status < HTTPStatus.BAD_REQUEST]
    return parameter | ({"example": values[0]} if values else {})


def _examples(found: Iterable[tuple[str, str, Any]]) -> Schema:
    shown = {name: {"summary": summary, "value": value} for name, summary, value in found}
    return {"examples": shown} if shown else {}


def _responses(one: Operation, responses: dict[str, Schema]) -> Schema:
    errors: dict[int, list[Kind]] = {}
    for kind in (*ANY_CALL, *(() if one.scope is None else (Unauthorized, Forbidden, TooManyRequests)), *one.errors):
        errors.setdefault(int(kind.status), []).append(kind)
    body = "BulkProblem" if one.path == "/events" else "Problem"
    shown = {}
    for status in sorted({*one.answers, *errors}):
        examples = [each for each in one.examples if each.status == status]
        if status not in one.answers and not examples and body == "Problem":
            # Many calls end in the same ways.
            name = "_".join(kind.slug for kind in errors[status])
            responses[name] = _problem(errors[status])
            shown[str(status)] = {"$ref": f"#/components/responses/{name}"}
            continue
        answer = _problem(errors[status], body) if status in errors else {"content": {}}
        if status in one.answers:
            success = _success(one.answers[status])
            answer = success | {"content": {**success["content"], **answer["content"]}}
        for kind, content in answer["content"].items():
            content.update(
                _examples(
                    (each.name, each.summary, each.answer)
                    for each in examples
                    if each.answer_type == kind and each.answer is not None
                )
            )
        if not answer["content"]:
            del answer["content"]
        shown[str(status)] = answer
    return shown


def _success(answer: Success) -> Schema:
    return {
        "description": answer.text,
        **({"headers": {name: _header(name) for name in answer.headers}} if answer.headers else {}),
        "content": {kind: {"schema": schema} for kind, schema in answer.contents.items()},
    }


def _problem(kinds: list[Kind], body: str = "Problem") -> Schema:
    status = kinds[0].status
    names = {
        HTTPStatus.SERVICE_UNAVAILABLE: ["Retry-After"],
        HTTPStatus.UNAUTHORIZED: ["WWW-Authenticate"],
        HTTPStatus.FORBIDDEN: ["WWW-Authenticate"],
        HTTPStatus.TOO_MANY_REQUESTS: ["Retry-After", "RateLimit-Policy", "RateLimit"],
    }.get(status, [])
    return {
        "description": "; ".join(f"`{kind.slug}`: {kind.title}" for kind in kinds),
        "headers": {name: _header(name) for name in (*names, "X-Request-Id")},
        "content": {
            PROBLEM: {
                "schema": {
                    "allOf": [ref(body)],
                    "properties": {
                        "type": {"enum": [problem_type(kind) for kind in kinds]},
                        "status": {"const": int(status)},
                    },
                }
            }
        },
    }


def _header(name: str) -> Schema:
    return {"$ref": f"#/components/headers/{name}"}


def curl(one: Operation, example: Example) -> str:
    """The call as a command line."""
    words = ["curl"]
    if one.method != "get":
        words += ["-X", one.method.upper()]
    # As people write it: colons stay, and what has no value has no equals sign.
    query = "&".join(
        quote(name) + (f"={quote(value, safe=':')}" if value else "") for name, value in example.query.items()
    )
    words.append(f"http://localhost:8000{one.path}" + (f"?{query}" if query else ""))
    if example.body_type is not None:
        words += ["-H", f"Content-Type: {example.body_type}", "--data-binary", body_text(example)]
    return shlex.join(words)


def body_text(example: Example) -> str:
    """The body as it is sent."""
    if isinstance(example.body, str):
        return example.body
    if example.body_type == FORM:
        return urlencode(example.body)
    return json.dumps(example.body)
