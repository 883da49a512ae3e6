"""What every gradient policy offers, and what several of them use."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

from toolkit.control.prepared import Counted, PreparedLoop, PreparedWhile
from toolkit.types import Tree


@runtime_checkable
class Policy(Protocol):
    """What `gradient=` accepts."""

    def run(self, loop: PreparedLoop) -> tuple[Tree, Tree]:
        """The last carry and the outputs of a loop of known length."""
        ...

    def run_while(self, loop: PreparedWhile) -> Counted:
        """The last carry of a loop that ends on a condition, and the steps that it made."""
        ...

    def memory(self, loop: PreparedLoop) -> int:
        """Bytes that a gradient of `run` keeps."""
        ...


def require_policy(gradient: Any) -> None:
    """Refuse what is not a policy, also the class `store` in place of `store()`."""
    if isinstance(gradient, type) or not isinstance(gradient, Policy):
        got = f"the class {gradient.__name__}" if isinstance(gradient, type) else repr(gradient)
        raise TypeError(
            f"`gradient` must be a policy of tk.control, such as checkpoint() or truncate(100): "
            f"got {got}."
        )


def step_of(loop: PreparedLoop) -> Callable[[Tree, Tree], tuple[Tree, Tree]]:
    """The loop's step as `jax.lax.scan` takes it: `(carry, x) -> (carry, y)`."""
    return lambda carry, x: loop.step(loop.closed, carry, x)


def set_positive(policy: Any, name: str) -> None:
    """Make the field `name` of a frozen policy a Python int; refused where it is no positive integer."""
    value = getattr(policy, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive int: got {value!r}.")
    object.__setattr__(policy, name, int(value))
