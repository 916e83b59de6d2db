"""One module for each command of `trainer`; its `run` takes the parsed arguments and returns the exit code."""
