"""``tallyslice completion SHELL``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
PROGRAM, VARIABLE = "tallyslice", "_TALLYSLICE_COMPLETE"


@click.command
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete `tallyslice`.

    \b
    Once, for the shell that is open:
      eval "$(tallyslice completion bash)"
    For good:
      bash    tallyslice completion bash > ~/.local/share/bash-completion/completions/tallyslice
      zsh     tallyslice completion zsh > "${fpath[1]}/_tallyslice"
      fish    tallyslice completion fish > ~/.config/fish/completions/tallyslice.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has one for each of ours
    click.echo(kind(context.find_root().command, {}, PROGRAM, VARIABLE).source())
