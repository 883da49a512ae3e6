"""`compare`: every rule on one batch, layer by layer, against the true gradient of its own prediction."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from toolkit import tables
from toolkit.credit.alignment import beside, by_layer, exact_gradient
from toolkit.credit.backprop import Backprop
from toolkit.credit.passes import Batch, LearningRule, Loss
from toolkit.errors.readable import readable, reason_of
from toolkit.settings import require
from toolkit.types import Issue, Tree
from toolkit.vocabulary.roles import Rule

REPEATS = 5  # timed calls of each rule, in turns with backprop's; the median counts
SCALES = (0.1, 10.0)  # of a norm ratio beyond which the scale of the feedback is named
NOTHING = 1e-7  # a ratio below this is rounding: nudges that have not come that far down

_HEAD = (
    *("rule", "layer", "cosine", "norm ratio", "loss"),
    *("ms", "/ backprop", "temp KiB", "/ backprop", "sweeps", "residual", ""),
)


class LayerRow(NamedTuple):
    """One rule at one layer; the numbers from `loss` on are the rule's, the same at all its layers."""

    rule: str
    layer: int | None  # index into `params`; None where the rule raised an error
    cosine: float  # with the derivative of the loss at the rule's own prediction
    norm_ratio: float
    loss: float
    seconds: float  # of one compiled call of `gradients`, median
    seconds_ratio: float  # to backprop's of the same model; NaN for an energy
    temp_bytes: int  # that the compiled program allocates besides arguments and results
    temp_bytes_ratio: float
    sweeps: int
    residual: float
    status: int  # a `tk.Issue`
    reason: str  # why the rule failed, what it warned of, what is known to go wrong; else empty


class RuleComparison(NamedTuple):
    """Rules side by side; prints as a table, and is one in a notebook."""

    rows: tuple[LayerRow, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a rule and layer, keys as in `LayerRow`."""
        return [row._asdict() for row in self.rows]

    def __repr__(self) -> str:
        return tables.text(_HEAD, [_cells(row) for row in self.rows])

    def _repr_html_(self) -> str:
        return tables.page(_HEAD, [_cells(row) for row in self.rows])


@readable
def compare(
    model: Any,
    loss: Loss,
    params: Tree,
    batch: Batch,
    rules: Mapping[str, LearningRule],
    key: Array,
) -> RuleComparison:
    """Each rule's gradient of one batch: how right it is in each layer, and what it costs.

    A rule is held against the derivative of the loss at *its own* prediction, by reverse mode through
    all that this prediction computes: a Hopfield network computes another function than the forward pass.

        print(tk.credit.compare(model, loss, params, batch, {"bp": Backprop(), "fa": rule}, key))

    Args:
      model, loss, params, batch: as for a rule; `batch = (x, target)`.
      rules: by name.
      key: a JAX key, for each rule's state and its one call.

    Returns: rows in the order of the rules, one for each layer with parameters; a rule that raises an
      error has one row, with its reason.

    Raises:
      ValueError: `rules` is no dict, or empty.

    Cost: three compilations a rule. Seconds are of this process, now: compare them with each other, on a
    quiet machine.
    """
    if not isinstance(rules, Mapping) or not rules:
        raise ValueError(
            '`rules` must be a dict of rules by name, such as {"dual": tk.credit.DualPropagation()}: '
            f"got {rules!r}."
        )
    baseline = _baseline(model, loss, params, batch, key)
    found: list[tuple[LayerRow, ...]] = []
    for name, rule in rules.items():
        try:
            require(f"rules[{name!r}]", rule, Rule)
            found.append(_rows_of(name, rule, model, loss, params, batch, key, baseline))
        except Exception as error:  # whatever a rule refuses belongs in its row
            found.append((_failed(name, reason_of(error)),))
    return RuleComparison(tuple(row for rows in found for row in rows))


class _Program(NamedTuple):
    """A compiled gradient and its arguments."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    temp_bytes: int


def _program(
    rule: LearningRule, model: Any, loss: Loss, params: Tree, batch: Batch, key: Array
) -> _Program:
    init, gradients = rule(model, loss)
    state_key, call_key = jax.random.split(key)
    arguments = (params, init(state_key, params, batch), batch, call_key)
    compiled = jax.jit(gradients).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    return _Program(compiled, arguments, int(memory.temp_size_in_bytes) if memory else -1)


def _baseline(model: Any, loss: Loss, params: Tree, batch: Batch, key: Array) -> _Program | None:
    """Backprop of the same model; None where the model has no forward pass."""
    if not hasattr(model, "apply"):
        return None
    return _program(Backprop(), model, loss, params, batch, key)


def _rows_of(
    name: str,
    rule: LearningRule,
    model: Any,
    loss: Loss,
    params: Tree,
    batch: Batch,
    key: Array,
    baseline: _Program | None,
) -> tuple[LayerRow, ...]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        program = _program(rule, model, loss, params, batch, key)
    gradient, _, info = program.call(*program.arguments)
    exact = jax.jit(exact_gradient(model, loss, rule))(params, batch)
    aligned = beside(gradient, exact)
    seconds, ratio = _timed(program, baseline)
    warned = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    issues = [bit.name or "" for bit in Issue(int(info.status))]
    bytes_ratio = math.nan
    if baseline is not None and baseline.temp_bytes > 0:
        bytes_ratio = program.temp_bytes / baseline.temp_bytes
    of_rule = LayerRow(
        name,
        None,
        math.nan,
        math.nan,
        float(info.loss),
        seconds,
        ratio,
        program.temp_bytes,
        bytes_ratio,
        int(info.sweeps),
        float(info.residual),
        int(info.status),
        "",
    )
    layers = [k for k, own in enumerate(by_layer(exact)) if jax.tree.leaves(own)]
    rows = []
    for layer, cosine, norm_ratio in zip(layers, *map(np.asarray, aligned), strict=True):
        reason = "; ".join([*warned, *issues, *_scale(norm_ratio)])
        row = of_rule._replace(layer=layer, cosine=float(cosine), norm_ratio=float(norm_ratio))
        rows.append(row._replace(reason=reason))
    return tuple(rows)


def _timed(program: _Program, baseline: _Program | None) -> tuple[float, float]:
    """(median seconds of a call, median of its ratio to backprop's in the same turn)."""

    def once(one: _Program) -> float:
        began = time.perf_counter()
        jax.block_until_ready(one.call(*one.arguments))
        return time.perf_counter() - began

    seconds, ratios = [], []
    for _ in range(REPEATS):
        seconds.append(once(program))
        ratios.append(math.nan if baseline is None else seconds[-1] / once(baseline))
    return float(np.median(seconds)), float(np.median(ratios))


def _scale(norm_ratio: float) -> list[str]:
    low, high = SCALES
    if math.isnan(norm_ratio) or low <= norm_ratio <= high:
        return []
    if norm_ratio < NOTHING:
        return ["the gradient is 0: the rule has no signal here, or none yet"]
    return [f"norm {norm_ratio:.2g} times the gradient's: the scale of the feedback is off"]


def _failed(name: str, reason: str) -> LayerRow:
    nan = math.nan
    return LayerRow(name, None, nan, nan, nan, nan, nan, 0, nan, 0, nan, 0, reason)


def _cells(row: LayerRow) -> tuple[str, ...]:
    if row.layer is None:
        return (row.rule, *["-"] * (len(_HEAD) - 2), row.reason)
    return (
        row.rule,
        str(row.layer),
        f"{row.cosine:.4f}",
        f"{row.norm_ratio:.3g}",
        f"{row.loss:.4g}",
        f"{1e3 * row.seconds:.3g}",
        f"{row.seconds_ratio:.2f}",
        f"{row.temp_bytes / 1024:,.0f}",
        f"{row.temp_bytes_ratio:.1f}",
        str(row.sweeps),
        f"{row.residual:.1e}",
        row.reason,
    )
