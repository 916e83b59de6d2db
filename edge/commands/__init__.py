"""The commands of `edge`: one module each, imported only when the command runs.

Each has `run(arguments) -> int`, which returns the exit code.
"""
