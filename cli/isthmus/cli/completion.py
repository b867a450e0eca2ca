"""`isthmus completion`."""

from __future__ import annotations

import sys
from typing import Literal

from isthmus.cli.command import command


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completions for a shell.

    Examples:
        source <(isthmus completion bash)

        isthmus completion bash > /etc/bash_completion.d/isthmus

        isthmus completion zsh > "${fpath[1]}/_isthmus"

        isthmus completion fish > ~/.config/fish/completions/isthmus.fish

    Args:
        shell: The shell that is to read them.

    """
    from isthmus.cli.main import app as whole  # noqa: PLC0415 - it imports this module in its turn

    sys.stdout.write(whole.generate_completion(shell=shell))


app = command(completion)
