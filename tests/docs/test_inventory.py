"""What the documentation lists is what there is: no more, no less.

Each list is a table whose first column is headed by the kind of thing that it lists.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from aiohttp import web

from common import wire
from common.config import ClusterConfig
from common.errors import EXIT_USAGE, ExitError, RequestError
from common.listener import METRICS
from common.logs import new_log
from common.routing import WorkerId
from common.web import read_arguments
from common.wire import Outcome
from tallyslice.__main__ import EXIT_INTERRUPTED
from tallyslice.__main__ import main as command
from tests.support.nodes import Nodes
from tests.support.pages import PAGES, ROOT, Table, names_under, section, tables
from worker_node.app import Place, open_worker

CONFIGURATION, OPERATIONS, PROTOCOL = (ROOT / f"docs/{name}.md" for name in ("configuration", "operations", "protocol"))
DECISIONS = ROOT / "docs/decisions"

PACKAGES = ("api_node", "common", "dashboard", "tallyslice", "worker_node")
LEVELS = ("info", "warning", "error")

MESSAGES = [kind for _, kind in inspect.getmembers(wire, inspect.isclass) if issubclass(kind, msgspec.Struct)]
CONSTANTS = (
    "BATCH_EVENTS_MAX", "BATCH_BYTES_MAX", "ENVELOPE_BYTES_MAX", "ENVELOPE_SLICES_MAX", "ENVELOPE_BATCHES_MAX",
    "WORKER_BODY_BYTES_MAX",
    "QUESTION_SLICES_MAX", "NAMES_MAX", "ROUTE_WORKERS_MAX",
)  # fmt: skip


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    """A class and all that derive from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def once(names: Iterable[str]) -> set[str]:
    """The names; none may be there twice."""
    found = list(names)
    assert len(set(found)) == len(found), sorted(name for name in found if found.count(name) > 1)
    return set(found)


def calls_of(app: web.Application) -> set[str]:
    """Method and path of every route; a path with a slash at its end is the same one."""
    return {
        f"{route.method} {resource.canonical.rstrip('/') or '/'}"
        for resource in app.router.resources()
        for route in resource
        if route.method != "HEAD"
    }


def documented_calls(heading: str) -> set[str]:
    """The calls in the table below a heading."""
    return once(re.findall(r"^\| `((?:GET|POST) [^`]+)`", section(PROTOCOL, heading), re.MULTILINE))


def test_every_key_of_the_cluster_file() -> None:
    """docs/configuration.md lists each key once, and tells what a change of it does."""
    keys = {field.name.replace("_", "-") for field in dataclasses.fields(ClusterConfig)} - {"version"}
    changes = next(table for table in tables(CONFIGURATION) if table.heads[0] == "changed")

    assert once(names_under("key", CONFIGURATION)) == keys
    assert set(changes.names()) == keys


def test_every_module() -> None:
    """The tour's list of modules."""
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }

    assert once(names_under("module", ROOT / "docs/architecture.md")) == modules


def test_the_defaults_of_the_keys() -> None:
    """The defaults are those of the code."""
    keys = next(table for table in tables(CONFIGURATION) if table.heads[0] == "key")
    shown = {row[0].strip("`").replace("-", "_"): row[1] for row in keys.rows}
    numbers = {
        field.name: "null" if field.default is None else f"{field.default}"
        for field in dataclasses.fields(ClusterConfig)
        if field.default is None or isinstance(field.default, (int, float))
    }

    assert {name: shown[name] for name in numbers} == numbers


async def test_every_call(tmp_path: Path) -> None:
    """docs/protocol.md lists each route of both node types."""
    async with Nodes(tmp_path, workers=1) as nodes:
        parts = nodes.api["0"].parts
        assert parts is not None
        api = calls_of(parts.app)
        await nodes.worker["0"].stop()
        place = Place(worker=WorkerId("0"), cluster_file=nodes.file, folder=nodes.worker["0"].data)

        async with open_worker(place, log=new_log("worker-0", stream=nodes.written), fail=print) as node:
            worker = calls_of(node.app)

    assert documented_calls("Calls to an API node") == api
    assert documented_calls("Calls to a worker") == worker


async def test_every_metric(tmp_path: Path) -> None:
    """docs/operations.md lists each metric with the node types that have it, its type and its labels."""
    async with Nodes(tmp_path, workers=1) as nodes:
        parts = nodes.api["0"].parts
        assert parts is not None
        api = metrics_of(parts.app)
        await nodes.worker["0"].stop()
        place = Place(worker=WorkerId("0"), cluster_file=nodes.file, folder=nodes.worker["0"].data)

        async with open_worker(place, log=new_log("worker-0", stream=nodes.written), fail=print) as node:
            worker = metrics_of(node.app)

    table = next(table for table in tables(OPERATIONS) if table.heads[0] == "metric")
    assert api.keys() >= {name for name in worker if name.startswith(("process_", "python_"))}
    assert {name: of for name, of in api.items() if name in worker} == {
        name: of for name, of in worker.items() if name in api
    }
    found = {
        name: ("both" if name in api and name in worker else "API" if name in api else "worker", *of)
        for name, of in {**api, **worker}.items()
    }
    shown = {name: (row[1], row[2], frozenset(row[3].split(", ")) - {""}) for name, row in by_name(table)}
    assert shown == found


def test_the_units_of_the_metrics() -> None:
    """A metric has its unit in its name where that is seconds or bytes, and nothing else does."""
    table = next(table for table in tables(OPERATIONS) if table.heads[0] == "metric")

    for unit in ("seconds", "bytes"):
        assert {name for name, row in by_name(table) if row[4] == unit} == {
            name for name in table.names() if name.removesuffix("_total").endswith(f"_{unit}")
        }


def by_name(table: Table) -> Iterator[tuple[str, Sequence[str]]]:
    """The rows of a table."""
    return zip(once_in_order(table.names()), table.rows, strict=True)


def metrics_of(app: web.Application) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric of a node; of the library's own as their samples have them."""
    metrics = app[METRICS]
    found: dict[str, tuple[str, frozenset[str]]] = {
        name: (family.kind, frozenset(family.label_names)) for name, family in metrics.families.items()
    }
    for one in metrics.registry.collect():
        name = f"{one.name}_total" if one.type == "counter" else one.name
        assert name in found or not name.startswith("tallyslice_"), f"{name} was not made by Metrics"
        found.setdefault(name, (one.type, frozenset(label for sample in one.samples for label in sample.labels)))
    return found


def commands_of(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Each command by its whole name; of a group, those in it."""
    context = click.Context(group)
    for word in group.list_commands(context):
        one = group.get_command(context, word)
        assert one is not None
        if isinstance(one, click.Group):
            yield from commands_of(one, f"{name} {word}")
        else:
            yield f"{name} {word}", one


def test_every_command() -> None:
    """docs/operations.md lists each command and each option."""
    commands = dict(commands_of(command, "tallyslice"))
    shown = once(names_under("command", OPERATIONS))

    assert {name for name in shown if name.startswith("tallyslice ")} == commands.keys()
    options = {option for one in commands.values() for param in one.params for option in param.opts}
    with contextlib.redirect_stdout(io.StringIO()) as help_text, contextlib.suppress(SystemExit):
        read_arguments("api", ["--help"])
    options |= set(re.findall(r"--[a-z-]+", help_text.getvalue())) - {"--help"}
    assert once(names_under("option", OPERATIONS)) == {option for option in options if option.startswith("--")}


def test_no_page_speaks_of_a_command_that_is_not_there() -> None:
    """Whatever stands in code and begins with tallyslice is a command."""
    commands = set(command.list_commands(click.Context(command)))
    spoken = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(r"(?:`|bin/|^\$ )tallyslice ([a-z-]+)", page.read_text(), re.MULTILINE)
    }

    assert {one for one in spoken if one[1] not in commands} == set()


def test_every_problem() -> None:
    """docs/protocol.md lists each problem type with its status."""
    # Those of common/web.py too, which the nodes' apps import.
    problems = {kind.slug: str(int(kind.status)) for kind in subclasses(RequestError)}
    problems["http"] = "any"

    table = next(table for table in tables(PROTOCOL) if table.heads[0] == "problem")
    assert dict(zip(once_in_order(table.names()), (row[1] for row in table.rows), strict=True)) == problems


def once_in_order(names: list[str]) -> list[str]:
    """The names as they are, none of them twice."""
    once(names)
    return names


def test_every_exit_code() -> None:
    """docs/operations.md lists each exit code."""
    codes = {0, EXIT_USAGE, EXIT_INTERRUPTED, *(kind.exit_code for kind in subclasses(ExitError))}

    assert once(names_under("code", OPERATIONS)) == {str(code) for code in codes}


def log_events() -> dict[str, set[str]]:
    """Event of every log line in the code -> its levels."""
    found: dict[str, set[str]] = {}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if levels := levels_of(call.func, tree):
                for event in texts(call.args[0], tree):
                    found.setdefault(event, set()).update(levels)
    return found


def levels_of(function: ast.expr, tree: ast.Module) -> set[str]:
    """The levels at which a call logs: by a method of a log, or a name that was given one or another; else none."""
    if isinstance(function, ast.Name):
        methods = {one for value in values_of(function.id, tree) for one in ast.walk(value)}
    else:
        methods = {function}
    return {
        one.attr
        for one in methods
        if isinstance(one, ast.Attribute) and one.attr in LEVELS and ast.unparse(one.value).endswith("log")
    }


def values_of(name: str, tree: ast.Module) -> list[ast.expr]:
    """What a module ever assigns to a name."""
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]
    ]


def texts(expression: ast.expr, tree: ast.Module) -> set[str]:
    """What an expression may be: a text, one or another, or a name that was given such."""
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    if isinstance(expression, ast.IfExp):
        return texts(expression.body, tree) | texts(expression.orelse, tree)
    assert isinstance(expression, ast.Name), f"what is logged by {ast.unparse(expression)}?"
    return set().union(*(texts(value, tree) for value in values_of(expression.id, tree)))


def test_every_log_event() -> None:
    """docs/operations.md lists each event that is logged, with its level."""
    table = next(table for table in tables(OPERATIONS) if table.heads[0] == "event")

    assert dict(zip(table.names(), ({row[1]} for row in table.rows), strict=True)) == log_events()


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: str(kind.__name__))
def test_every_message_between_the_nodes(kind: type[msgspec.Struct]) -> None:
    """docs/protocol.md has a section for each message, which lists its fields in their order."""
    text = section(PROTOCOL, kind.__name__)

    assert re.findall(r"^\| `(\w+)` \|", text.partition("| outcome |")[0], re.MULTILINE) == list(kind.__struct_fields__)


def test_every_outcome() -> None:
    """docs/protocol.md lists each outcome of a batch."""
    assert names_under("outcome", PROTOCOL) == [outcome.value for outcome in Outcome]


def test_the_bounds_of_the_wire() -> None:
    """docs/protocol.md has the numbers of the code."""
    table = next(table for table in tables(PROTOCOL) if table.heads[0] == "constant")

    assert {row[0].strip("`"): int(row[1]) for row in table.rows} == {name: getattr(wire, name) for name in CONSTANTS}


def test_every_decision_is_listed() -> None:
    """The list of decisions names each file, in order, by its title."""
    listed = re.findall(r"^\| \[(\d+)\]\(([^)]+)\) \| (.*?) \| ", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    files = sorted(path for path in DECISIONS.glob("*.md") if path.name != "README.md")

    assert [name for _, name, _ in listed] == [path.name for path in files]
    titles = [path.read_text().partition("\n")[0] for path in files]
    assert [f"# {number}: {title}" for number, _, title in listed] == titles


def test_every_module_that_is_spoken_of() -> None:
    """Paths of modules on the pages are paths of modules."""
    spoken = {
        name
        for page in PAGES
        for name in re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|scripts)/[a-z_/]+\.py)`", page.read_text())
    }

    assert {name for name in spoken if not (ROOT / name).exists()} == set()
    assert spoken
