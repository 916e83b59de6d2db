"""The terminal, file or pipe that commands print to."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """Rich's, which leaves a closed pipe to the command line."""

    def on_broken_pipe(self) -> None:
        raise  # what rich is handling; its own way ends the process with exit code 1
