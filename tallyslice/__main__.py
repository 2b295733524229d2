"""The command ``tallyslice``: a thin place that knows which module holds which command, and how every one ends.

Exit codes are the design's: 64 for usage, and each ``ExitError`` brings its own. Whatever goes wrong is said in a
sentence on standard error; only a defect of ours shows a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from common.errors import EXIT_USAGE, ExitError, InputOutputFailed
from tallyslice.version import own_version

EXIT_INTERRUPTED = 130  # as shells say it of Ctrl-C: 128 + SIGINT


class _Entry(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    place: str
    help: str


# Imported only when asked for: check-config should not wait for what `up` needs, nor the list of commands for any.
_COMMANDS = {
    "up": _Entry("tallyslice.up:up", "Run a whole cluster on this machine."),
    "status": _Entry("tallyslice.status:status", "Is every node well, and if not, why?"),
    "query": _Entry("tallyslice.query:query", "Ask what is counted."),
    "watch": _Entry("tallyslice.watch.command:watch", "Watch what is counted, live."),
    "send": _Entry("tallyslice.send.command:send", "Send events: one, or those of a file."),
    "load": _Entry("tallyslice.load.command:load", "Load a cluster, measure it, and check its counts."),
    "check-config": _Entry("tallyslice.check_config:check_config", "Is a cluster file good, and what does it mean?"),
    "plan": _Entry("tallyslice.plan:plan", "What would change if one cluster file replaced another?"),
    "registry": _Entry("tallyslice.registry:registry", "When the registry, or a worker's disk, is lost."),
    "token": _Entry("tallyslice.tokens:token", "Make, list and revoke the tokens of clients."),
    "close": _Entry("tallyslice.close:close", "End a slice for good, before its time."),
    "backup": _Entry("tallyslice.backup:backup", "Copy the data folder of a worker that runs."),
    "verify": _Entry("tallyslice.verify:verify", "Is the data folder of a stopped node as it was written?"),
    "completion": _Entry("tallyslice.completion:completion", "Let the shell complete commands and options."),
    "version": _Entry("tallyslice.version:version", "Show versions, for a report of a defect."),
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
        module, _, name = _COMMANDS[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - likewise
        """The list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in _COMMANDS.items()])

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
        _open_what_is_closed()
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            sys.exit(EXIT_USAGE)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            _be_silent()
            sys.exit(0)
        except ExitError as error:
            click.echo(str(error), err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise  # whoever opens a file or a connection says himself what is wrong with it
            _be_silent()
            click.echo(f"The output cannot be written: {error.strerror}.", err=True)
            sys.exit(InputOutputFailed.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def _open_what_is_closed() -> None:
    """Give us the standard streams that our caller closed: or files and sockets of ours would get their numbers."""
    for number, mode in enumerate("rww"):
        name = ("stdin", "stdout", "stderr")[number]
        if getattr(sys, name) is None:
            # The lowest free number is taken first, so this is the one that is missing.
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))  # noqa: PTH123, SIM115 - it lasts as long as we do


def _be_silent() -> None:
    """Whoever read our output has seen enough; Python must not complain of it when it flushes at the end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(own_version())
def main() -> None:
    """Tallyslice counts events in real time, exactly, without knowing who anybody is.

    \b
    A first look:
      tallyslice up --feed          a cluster on this machine, fed with random users; then, in another terminal:
      tallyslice status             is every node well?
      tallyslice query              what is counted right now?

    `tallyslice COMMAND --help` has examples.
    """


if __name__ == "__main__":
    main()
