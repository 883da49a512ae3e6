"""Whose code a stack frame runs, told by its file: of this package, JAX, an installed package or the user."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import sysconfig
import warnings
from pathlib import Path
from types import FrameType

import jax

# Frames name files as `sys.path` leads to them. So links are not resolved here, or nothing would match
# in an environment that is reached through one.
OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
JAX = os.path.dirname(jax.__file__) + os.sep
STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
SITE = tuple(sysconfig.get_paths()[name] + os.sep for name in ("purelib", "platlib"))
# What decorators and context managers put between two frames of this package.
WRAPPERS = (contextlib.__file__, functools.__file__)

# The parameters of the functions that `@tk.control_flow` makes for single operators, `lambda a, b: a + b`.
OPERANDS = ("_tk_left", "_tk_right")


def is_ours(file: str | None) -> bool:
    """Whether a file is of this package."""
    return (file or "").startswith(OURS)


def is_jax(file: str | None) -> bool:
    """Whether a file is of JAX."""
    return (file or "").startswith(JAX)


def is_installed(file: str | None) -> bool:
    """Whether a file is not the user's: it belongs to Python, to an installed package or to this one."""
    return (file or "").startswith((OURS, STDLIB, *SITE, JAX, "<frozen"))


def warn(message: str, category: type[Warning]) -> None:
    """`warnings.warn` of the nearest line that is the user's own."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and is_installed(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=2 if frame is None else level)


def rooms(*names: str) -> tuple[str, ...]:
    """The folders of these rooms of this package, as `str.startswith` takes them."""
    return tuple(f"{OURS}{name}{os.sep}" for name in names)


def module_of(file: str) -> str:
    """The name of the module of this package that a file holds; "" of other files."""
    if not is_ours(file):
        return ""
    inside = Path(file).relative_to(OURS).with_suffix("")
    return ".".join((__name__.partition(".")[0], *inside.parts))


def shown(file: str) -> str:
    """A file of an installed package as the package names it: `optax/tree.py`."""
    # Some of these folders contain others (site-packages lies below that of Python): the longest that fits
    # counts.
    bases = sorted((str(Path(OURS).parent) + os.sep, STDLIB, *SITE, JAX), key=len, reverse=True)
    base = next((base for base in bases if file.startswith(base)), "")
    return file.removeprefix(base)
