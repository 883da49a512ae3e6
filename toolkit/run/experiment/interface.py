"""The interface between the runner and an experiment: pure functions in, durable numbers and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array
    from matplotlib.figure import Figure as Canvas

    State = Any  # a pytree of arrays; typed PRNG keys are allowed


class Final(NamedTuple):
    """What remains of a finished run."""

    params: dict[str, Any]  # nested dict of arrays, written to final/params.safetensors
    metrics: dict[str, float]  # finite, written to final/metrics.json; claims refer to these names
    table: tuple[tuple[str, str], ...] = ()  # rows (name, value) printed at the end


class Gradients(NamedTuple):
    """A gradient among a step's metrics, to be reported leaf by leaf where `diagnostics.gradients_every` says.

    Leaves are named after the metric: `theta['w1']`. A step that reports runs a program of its own, whose last
    bits may differ. All other steps run the same program as without gradients, at the same cost.
    """

    grads: Any  # a pytree
    params: Any = None  # what it is the gradient of; with `updates`, for their ratio
    updates: Any = None


class Loss(NamedTuple):
    """A function that the experiment differentiates. `toolkit check` looks for inputs of it that cannot learn."""

    fn: Callable[..., Any]  # of the arguments, to a scalar
    arguments: tuple[Any, ...]  # trees of arrays or of their shapes
    argnums: int | tuple[int, ...] = 0  # what is learned


def losses_of(
    solve: Callable[..., Any], outer: Callable[..., Any], y: Any, theta: Any
) -> dict[str, Loss]:
    """What a hypergradient differentiates: the function that `solve` minimises, and `outer` at its solution.

    Args:
      solve: from `tk.argmin`, `tk.root` or `tk.fixed_point`, with the rule that makes the derivative.
      outer: `outer(y, theta) -> real scalar`.
      y, theta: trees of arrays or of their shapes.
    """

    def hyper(y: Any, theta: Any) -> Any:
        return outer(solve(y, theta).value, theta)

    at = (y, theta)
    return {"inner": Loss(solve.fun, at), "hyper": Loss(hyper, at, argnums=1)}  # type: ignore[attr-defined]


class Program(NamedTuple):
    """The functions that the runner drives: `init`, then `step` as often as the config says, then `finish`.

    `init` and `step` are compiled apart, never fused: a fused program rounds differently from a resumed one.

    A function with a parameter `data` is called with `data=`, the arrays of `data` by name where the run has
    placed them: `init(key, data)`, `step(state, data)`, `finish(state, data)`, `losses(state, data)`. In what
    is compiled they are arguments. Arrays that a function closes over are constants there: they are compiled
    with it, and each of several devices holds all of them.
    """

    init: Callable[[Array], State]  # key -> state
    # Pure; each metric is a scalar, or `Gradients`.
    step: Callable[[State], tuple[State, dict[str, Array | Gradients]]]
    finish: Callable[[State], Final]  # called once, after the last step, not compiled
    # What is differentiated, by name: the hyper-objective and others. It is called with the shapes of a
    # state.
    losses: Callable[[State], dict[str, Loss]] | None = None
    # True for `step(state, fraction)`: a float32 scalar from 0 to 1, the part of the steps that is used up
    # or, where that is more, of the time in `budget`. It is data, so nothing is compiled again, and it stands
    # in each row. Without a budget a run stays reproducible. With one it is not: its fractions depend on how
    # fast the machine was.
    takes_fraction: bool = False
    # Trees of arrays by name: the data it learns from, handed to the functions that take `data`. Their shapes
    # and hashes stand in run.json, and a run is resumed only if they are the same.
    data: Mapping[str, Any] = MappingProxyType({})
    # A pytree of arrays with `batch(i)`, which gives the batch of step i, counted from 0, of a traced i.
    # With it `step(state, batch)`, or `step(state, batch, fraction)`. The arrays are arguments of what is
    # compiled and hashed like data; of the batches only the number of steps is saved.
    batches: Any = None


class Figure(NamedTuple):
    """A picture of the report, drawn from durable files only, so that it can be redrawn at any time.

    `draw` receives an empty matplotlib figure of the right size, styled for the page, and adds its own axes
    (`axes = figure.subplots()`).
    """

    title: str
    caption: str
    draw: Callable[[Canvas], None]
    wide: bool = False  # spans the page instead of half of it
