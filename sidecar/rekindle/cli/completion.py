"""``rekindle completion``: the shell's part of completing our commands, as click makes it."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete rekindle's commands and options.

    \b
    bash  rekindle completion bash > ~/.local/share/bash-completion/completions/rekindle
    zsh   rekindle completion zsh > a file called _rekindle in a folder of $fpath
    fish  rekindle completion fish > ~/.config/fish/completions/rekindle.fish
    """
    from click.shell_completion import get_completion_class

    from rekindle.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "rekindle", "_REKINDLE_COMPLETE").source())
