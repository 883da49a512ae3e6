"""The commands work on the same toy experiment as the tests of runs."""

from tests.run.conftest import toolkit, work

__all__ = ["toolkit", "work"]
