"""Run an experiment so that it can be stopped, resumed, trusted and read.

The public names are loaded on first use (PEP 562): declaring a `Config` costs pydantic and nothing else, and only
driving a program imports jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.run.pace import by_fraction
    from toolkit.run.program import Figure, Final, Gradients, Loss, Program, losses_of
    from toolkit.run.settings import Claim, Diagnostics, Settings

_HOMES = {
    "Claim": "toolkit.run.settings",
    "Diagnostics": "toolkit.run.settings",
    "Settings": "toolkit.run.settings",
    "Figure": "toolkit.run.program",
    "Final": "toolkit.run.program",
    "Gradients": "toolkit.run.program",
    "Loss": "toolkit.run.program",
    "Program": "toolkit.run.program",
    "losses_of": "toolkit.run.program",
    "by_fraction": "toolkit.run.pace",
}

__all__ = [
    "Claim",
    "Diagnostics",
    "Figure",
    "Final",
    "Gradients",
    "Loss",
    "Program",
    "Settings",
    "by_fraction",
    "losses_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
