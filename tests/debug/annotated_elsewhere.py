"""A function in a file of its own, for tests/debug/annotated.py."""


def total(x):
    s = x.sum()
    return s
