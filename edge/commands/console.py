"""The console for the output of commands: a terminal, file or pipe."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """A Rich console that leaves the handling of a closed pipe to the command line."""

    def on_broken_pipe(self) -> None:
        raise  # BrokenPipeError; Rich would exit with code 1
