"""Commands of `trainer`: one module each, with `run(arguments)` that returns the exit code."""
