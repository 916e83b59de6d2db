"""What `edge` can be told to do: one module for each command, imported only when that command runs.

Each has `run(arguments) -> int`, which gives the exit code.
"""
