"""The command line, one file a command: which words call what?

Each command's module has `add`, which declares its words, and `run`, which does the work and returns the exit code.
"""
