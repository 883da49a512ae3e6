"""A function in a file of its own, for tests/debug/shapes/annotated.py."""


def total(x):
    s = x.sum()
    return s
