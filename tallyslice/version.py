"""``tallyslice version``: what runs here, for a report of a defect."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click

# What a defect may be one of: those that move the bytes, and those that keep them.
LIBRARIES = ("aiohttp", "lmdb", "msgspec", "uvloop", "click", "rich", "structlog", "prometheus-client")


def versions() -> dict[str, str]:
    """Tallyslice, Python, the platform and the main libraries."""
    return {
        "tallyslice": own_version(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        **{name: _of(name) for name in LIBRARIES},
    }


def own_version() -> str:
    """That of Tallyslice."""
    return _of("tallyslice")


def _of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def version(as_json: bool) -> None:
    """Show the version of Tallyslice, of Python, and of the libraries that matter."""
    found = versions()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        click.echo(f"{name:<18} {value}")
