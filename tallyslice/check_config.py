"""``tallyslice check-config FILE``: is the cluster file good, and what does it mean?"""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from common.config import ClusterConfig, load_config
from common.judge import route_plan, show_route
from common.slices import format_instant
from tallyslice.screen import plain_console


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Check a cluster FILE and show what it means; exit code 78 and every problem if it cannot be used.

    \b
    Example:
      tallyslice check-config etc/cluster.json
    """
    config = load_config(file)
    console = plain_console()
    console.print(f"{file} is good (version {config.version}).", soft_wrap=True)
    for table in (_nodes(config), _routing(config), _settings(config)):
        console.print(table)


def _nodes(config: ClusterConfig) -> Table:
    table = Table("Node", "Id", "URL", title="Nodes", title_justify="left")
    for name, url in config.api_nodes.items():
        table.add_row("API", name, url)
    for worker, url in config.worker_nodes.items():
        table.add_row("worker, registry" if worker == config.registry else "worker", worker, url)
    return table


def _routing(config: ClusterConfig) -> Table:
    table = Table("Slices", "Workers, in order", title="Routing of slices that are not settled", title_justify="left")
    for line in route_plan(config, config, {}):
        table.add_row(line.slices, show_route(line.new))
    return table


def _settings(config: ClusterConfig) -> Table:
    first = config.first_slice
    table = Table("Setting", "Value", title="Settings", title_justify="left")
    for key, value in (
        ("length-of-time-slice", f"{config.length_of_time_slice} seconds"),
        ("first-slice", '"system": when the cluster first starts' if first is None else format_instant(first)),
        ("event-types", config.event_types),
        ("cache-ttl-seconds", config.cache_ttl_seconds),
        ("reload-seconds", config.reload_seconds),
        ("close-after-seconds", "never" if config.close_after_seconds is None else config.close_after_seconds),
        ("close-grace-seconds", config.close_grace_seconds),
        ("max-future-seconds", config.max_future_seconds),
        ("max-past-seconds", "any" if config.max_past_seconds is None else config.max_past_seconds),
        ("max-slices", config.max_slices),
        ("spool-max-bytes", config.spool_max_bytes),
        ("spool-max-age-seconds", config.spool_max_age_seconds),
        ("secret-file", config.secret_file),
        ("internal-token-file", config.internal_token_file or "none"),
        ("tokens-file", config.tokens_file or "none: nobody is asked for a token"),
        ("rate-limits", config.rate_limits or "none"),
        ("cors-origins", ", ".join(config.cors_origins) or "none"),
        ("trusted-proxies", ", ".join(map(str, config.trusted_proxies)) or "none"),
        ("compat", config.compat or "none"),
    ):
        table.add_row(key, str(value))
    return table
