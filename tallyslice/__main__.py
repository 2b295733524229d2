"""The command ``tallyslice``: a thin place that knows which module holds which command.

Exit codes are the design's: 64 for usage, and each ``ExitError`` brings its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from common.errors import EXIT_USAGE, ExitError

EXIT_INTERRUPTED = 130  # as shells say it of Ctrl-C: 128 + SIGINT

# Imported only when asked for: check-config should not wait for what `up` needs.
_COMMANDS = {
    "check-config": "tallyslice.check_config:check_config",
    "load": "tallyslice.load.command:load",
    "plan": "tallyslice.plan:plan",
    "registry": "tallyslice.registry:registry",
    "up": "tallyslice.up:up",
}


class Commands(click.Group):
    """A group that finds its commands by name, and leaves with our exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order in which help shows them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        """The command of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> Any:  # noqa: ANN401 - likewise
        """Run, and leave the process (unless not standalone) with the exit code that fits what happened."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except ExitError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tallyslice")
def main() -> None:
    """Tallyslice counts events in real time, exactly, without knowing who anybody is."""


if __name__ == "__main__":
    main()
