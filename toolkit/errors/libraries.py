"""How a library that only an extra brings is missed."""

from __future__ import annotations


def missing(library: str, who: str) -> ImportError:
    """The error where `library` is not there; `who` needs it."""
    return ImportError(
        f'{who} needs {library}, which is not installed: pip install "toolkit-jax[solvers]".'
    )
