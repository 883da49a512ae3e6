"""Programs of people who move here from jaxopt or optimistix: what does the change of library cost them?

    python -m benchmarks moving --json FILE [--rounds N]

`programs` has each program with ours and with theirs, `__main__` runs both in turn and writes what it measured.
"""
