"""The command ``richkd completion``; no logic."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="the shell that you use")], /
) -> None:
    """Print a script that lets the shell complete commands, options and their values.

    For example:

    richkd completion bash > ~/.local/share/bash-completion/completions/richkd

    richkd completion zsh > ~/.zfunc/_richkd

    richkd completion fish > ~/.config/fish/completions/richkd.fish
    """
    from richkd.cli import app

    print(app.generate_completion(shell=shell))
