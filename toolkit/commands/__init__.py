"""The command line, a file for each command: which words call what?

Each command's module has `add`, which declares its words, and `run`, which returns the exit code.
"""
