"""``tallyslice token``: make, list and revoke the tokens of clients. Nodes notice by themselves (common/tokens.py)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from common.errors import ConfigRefused
from common.rates import RATE_FORM, RateRefused, parse_rate
from common.tokens import (
    EXPIRY_FORM,
    NO_LIMIT,
    Scope,
    changing,
    entry_of,
    new_token,
    parse_expiry,
    read_entries,
    write_entries,
)
from tallyslice.screen import new_table, plain_console

DEFAULT_FILE = Path("tokens.json")

_file = click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE, show_default=True,
    help="The tokens file: the one that tokens-file in the cluster file names.",
)  # fmt: skip


@click.group("token")
def token() -> None:
    """Make, list and revoke the tokens that clients show to API nodes."""


@token.command("new")
@click.argument("name")
@click.option(
    "--scope", "scopes", type=click.Choice([scope.value for scope in Scope]), multiple=True, required=True,
    help="What it is for; may be given several times.",
)  # fmt: skip
@click.option(
    "--limit", help=f'A limit of its own, instead of those of the cluster file: as "100/second", or "{NO_LIMIT}".'
)
@click.option("--expires", help='Until when it is good: a date as "2027-01-01", or a date-time (UTC).')
@_file
def new(name: str, scopes: tuple[str, ...], limit: str | None, expires: str | None, file: Path) -> None:
    """Make a token for NAME, add its hash to the file, and print it: once, since the file does not have it."""
    _check(limit, expires)
    made = new_token()
    with changing(file):
        entries = read_entries(file)
        if any(entry["name"] == name for entry in entries):
            raise click.UsageError(f"{file} has a token for {name} already; revoke it first, or choose another name")
        entry = entry_of(made, name=name, scopes=[Scope(one) for one in scopes], limit=limit, expires=expires)
        write_entries(file, [*entries, entry])
    click.echo(made)


def _check(limit: str | None, expires: str | None) -> None:
    if limit is not None and limit != NO_LIMIT:
        try:
            parse_rate(limit)
        except RateRefused as error:
            raise click.BadParameter(f'must be {RATE_FORM}, or "{NO_LIMIT}"', param_hint="--limit") from error
    if expires is not None:
        try:
            parse_expiry(expires)
        except ValueError as error:
            raise click.BadParameter(f"must be {EXPIRY_FORM}", param_hint="--expires") from error


@token.command("list")
@_file
def list_tokens(file: Path) -> None:
    """Show whose tokens the file has, and what they are for."""
    table = new_table("Name", "Scopes", "Limit", "Expires")
    for entry in _entries(file):
        table.add_row(entry["name"], ", ".join(entry["scopes"]), entry.get("limit", ""), entry.get("expires", ""))
    plain_console().print(table)


@token.command("revoke")
@click.argument("name")
@_file
def revoke(name: str, file: Path) -> None:
    """Take NAME's token out of the file: nodes refuse it from the moment that they have read that."""
    with changing(file):
        entries = _entries(file)
        kept = [entry for entry in entries if entry["name"] != name]
        if len(kept) == len(entries):
            raise click.UsageError(f"{file} has no token for {name}")
        write_entries(file, kept)


def _entries(file: Path) -> list[dict[str, Any]]:
    if not os.path.lexists(file):
        raise ConfigRefused([f"{file} is not there"])
    return read_entries(file)
