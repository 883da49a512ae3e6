"""Loops of a replay: they run compiled, and only the iterations that matter equation by equation.

A loop whose results are finite is one step of the replay. A loop with a bad result runs once more, and
remembers for each leaf of its carry when the leaf was last free of NaN, of +inf and of -inf. In that
iteration the bad entry was made, so it is run equation by equation. What the iteration read from the
carry is traced back in the same way. So an initial -inf, with which a running maximum starts, is
followed to the line where it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax import Array, lax

from toolkit.debug.nonfinite import origins
from toolkit.debug.nonfinite.interpret import PlaceInProgram, Replay, is_differentiated, is_primal
from toolkit.debug.nonfinite.last_free import runner
from toolkit.debug.nonfinite.origins import Birth, Masks, Value
from toolkit.jaxprs.loops import scan_parts, while_parts
from toolkit.jaxprs.read import evaluate, evaluate_equation, flow, without_callbacks

_LIMIT = np.iinfo(np.int32).max
# How many iterations are traced back, one from another. Each runs equation by equation, which is slow.
_DEEPEST = 40
# How many runs of bad steps are told apart in a stacked result. The first step of each runs equation by
# equation.
_RUNS = 8


@dataclass
class BadLoop:
    """A loop that made something bad. Steps count in the order in which they run."""

    replay: Replay
    here: PlaceInProgram
    name: str
    body: Any  # (consts, carry, x) -> (carry, y)
    consts: Sequence[Value]
    init: Sequence[Value]
    xs: Sequence[Value]
    index: Callable[[int], int]  # position of a step in `xs`
    run_to: Callable[[int], tuple[int, list[Array], np.ndarray]]  # step -> steps, carry, last free
    reverse: bool
    depends_on: Sequence[frozenset[str]]  # of the carry and the stacked results, over all steps
    carries: dict[int, list[Value]] = field(default_factory=dict)
    iterations: dict[int, list[Value]] = field(default_factory=dict)
    depth: int = 0  # of iterations that wait for the origin of what they read

    def carry(self, step: int) -> list[Value]:
        """The carry before `step`, with its origins."""
        # Different leaves often lead back to the same iterations. Carries and iterations are kept, so that
        # none is run twice.
        if step not in self.carries:
            _, arrays, last_free = self.run_to(step)
            self.carries[step] = [
                self._carried(leaf, array, last_free[leaf]) for leaf, array in enumerate(arrays)
            ]
        return self.carries[step]

    def iteration(self, step: int) -> list[Value]:
        """What `step` returns, equation by equation."""
        if step not in self.iterations:
            carry = self.carry(step)
            index = self.index(step)
            sliced = [_sliced(value, index) for value in self.xs]
            scope = self.here.iteration(self.name, step, index)
            results = self.replay.run(self.body, [*self.consts, *carry, *sliced], scope)
            # If the loop itself is not differentiated, its body may still compute a gradient. What reaches
            # the carry has then left the differentiated computation.
            if not is_differentiated(self.here.names):
                self.replay.note_ends(results)
            self.iterations[step] = results
        return self.iterations[step]

    def result(self, steps: int) -> list[Value]:
        """The carry after the last step."""
        results = self.carry(steps)
        # A backward pass runs from the last step to the first, and adds up what they contribute. Before it
        # comes to the bad step with the least index, which the user wants to see, the sum may be NaN already.
        # The replay would then blame a later step, so this one is run by itself.
        late = self._first_bad_index(steps) if self.reverse else None
        if late is None:
            return results
        added = self.iteration(self.index(late))[: len(results)]
        return [
            replace(old, masks=dict.fromkeys(new.masks, bad) | old.masks) if bad.any() else old
            for old, new in zip(results, added, strict=True)
            for bad in [origins.nonfinite(old.array)]
        ]

    def _first_bad_index(self, steps: int) -> int | None:
        bad = np.zeros(steps, bool)
        for value in self.xs:
            for mask in value.masks.values():
                bad |= np.any(mask.reshape(steps, -1), axis=1)
        return int(np.argmax(bad)) if bad.any() else None

    def stacked(self, position: int, array: Any, steps: int) -> Value:
        """The result `position` of all steps."""
        if origins.is_finite(array):
            return self._value(array, {}, position)
        masks: Masks = {}
        for kind in origins.by_kind(array):
            for run in self._runs(kind, steps):
                found = self.iteration(run[0])[position].masks
                indices = [self.index(step) for step in run]
                for birth in found or self._unseen(array, run[0]):
                    own = masks.setdefault(birth, np.zeros_like(kind))
                    own[indices] |= kind[indices]
        return self._value(array, masks, position)

    def _runs(self, bad: np.ndarray, steps: int) -> list[list[int]]:
        """The bad steps, grouped into runs of consecutive ones; the last of `_RUNS` takes all others."""
        runs: list[list[int]] = []
        each = np.any(bad.reshape(steps, -1), axis=1)
        for step in range(steps):
            if not each[self.index(step)]:
                continue
            if runs and (runs[-1][-1] == step - 1 or len(runs) == _RUNS):
                runs[-1].append(step)
            else:
                runs.append([step])
        return runs

    def _carried(self, leaf: int, array: Any, last_free: np.ndarray) -> Value:
        masks: Masks = {}
        for kind, step in enumerate(last_free):
            wanted = origins.by_kind(array)[kind]
            if not wanted.any():
                continue
            if step < 0:  # it was there before the first step
                found = origins.restricted(self.init[leaf].masks, wanted) or self.init[leaf].masks
            else:
                found = self._made(leaf, int(step), kind)
            for birth in found or self._unseen(array, int(step)):
                masks[birth] = masks.get(birth, False) | wanted
        return self._value(array, masks, leaf)

    def _made(self, leaf: int, step: int, kind: int) -> Masks:
        """The births of the leaf's entries of this kind that `step` makes."""
        # A NaN that was handed on through thousands of steps would be followed through all of them, one
        # interpreted step after another. Beyond some depth the loop as a whole is named instead.
        if self.depth > _DEEPEST:
            return {}
        self.depth += 1
        value = self.iteration(step)[leaf]
        self.depth -= 1
        return origins.restricted(value.masks, origins.by_kind(value.array)[kind]) or value.masks

    def _unseen(self, array: Any, step: int) -> Masks:
        """The birth of entries that are bad in the compiled loop and not when interpreted."""
        scope = self.here.iteration(self.name, step, self.index(max(step, 0)))
        values = [*self.consts, *self.init, *self.xs]
        note = "The compiled loop makes it; which of its equations does, the replay could not tell."
        birth = self.replay.bear(self.name, values, scope, bool(origins.nans(array).any()), note)
        return {birth: origins.nonfinite(array)}

    def _value(self, array: Any, masks: Masks, position: int) -> Value:
        primal = is_primal(self.here.names)
        spoilt = frozenset(masks) if primal else frozenset[Birth]()
        return Value(array, masks, self.depends_on[position], "", primal, spoilt)


def scan(
    replay: Replay, equation: Any, values: Sequence[Value], here: PlaceInProgram
) -> list[Value]:
    """The results of a `scan`."""
    # The loop runs compiled, then once more to find the bad step, then some steps again. Without the
    # callbacks no line is printed twice.
    equation = without_callbacks(equation)
    parts = scan_parts(equation)
    body, length, reverse = parts.body, parts.length, parts.reverse
    consts, init, xs = parts.parted(values)
    results = evaluate_equation(equation, [value.array for value in values])
    if all(map(origins.is_finite, results)):
        return _finite(results, _dependence(body, consts, init, xs), here)

    def index(step: Any) -> Any:
        return length - 1 - step if reverse else step

    def advance(step: Any, carry: Sequence[Any]) -> Sequence[Any]:
        sliced = [lax.dynamic_index_in_dim(x.array, index(step), 0, False) for x in xs]
        return evaluate(body, *_arrays(consts), *carry, *sliced)[: len(init)]

    run_to = runner(advance, lambda carry: True, init)
    depends_on = _dependence(body, consts, init, xs)
    loop = BadLoop(replay, here, "scan", body, consts, init, xs, index, run_to, reverse, depends_on)
    stacked = [
        loop.stacked(position, array, length)
        for position, array in enumerate(results[len(init) :], len(init))
    ]
    carried = [
        replace(value, array=r)
        for value, r in zip(loop.result(length), results[: len(init)], strict=True)
    ]
    return [*carried, *stacked]


def while_loop(
    replay: Replay, equation: Any, values: Sequence[Value], here: PlaceInProgram
) -> list[Value]:
    """The results of a `while`."""
    equation = without_callbacks(equation)
    parts = while_parts(equation)
    condition, consts, init = parts.parted(values)
    results = evaluate_equation(equation, [value.array for value in values])
    if all(map(origins.is_finite, results)):
        return _finite(results, _dependence(parts.body, consts, init, ()), here)

    def goes_on(carry: Sequence[Any]) -> Any:
        return evaluate(parts.condition, *_arrays(condition), *carry)[0].any()

    def advance(step: Any, carry: Sequence[Any]) -> Sequence[Any]:
        return evaluate(parts.body, *_arrays(consts), *carry)

    run_to = runner(advance, goes_on, init)
    depends_on = _dependence(parts.body, consts, init, ())
    loop = BadLoop(
        replay,
        here,
        "while",
        parts.body,
        consts,
        init,
        (),
        int,
        run_to,
        False,
        depends_on,
    )
    steps, _, _ = run_to(_LIMIT)
    return [replace(v, array=r) for v, r in zip(loop.result(steps), results, strict=True)]


def _arrays(values: Sequence[Value]) -> list[Any]:
    return [value.array for value in values]


def _finite(
    results: Sequence[Any], depends_on: Sequence[frozenset[str]], here: PlaceInProgram
) -> list[Value]:
    primal = is_primal(here.names)
    return [Value(r, {}, one, "", primal) for r, one in zip(results, depends_on, strict=True)]


def _dependence(
    body: Any, consts: Sequence[Value], init: Sequence[Value], xs: Sequence[Value]
) -> list[frozenset[str]]:
    """What each result of the body depends on after any number of steps."""
    constant = [value.depends_on for value in consts]
    carried = [value.depends_on for value in init]
    sliced = [value.depends_on for value in xs]
    # In each step a leaf of the carry may take over the labels of another leaf, so this is repeated until no
    # label is new. It ends, because there are finitely many labels and none is ever removed.
    while True:
        found = flow(body, [*constant, *carried, *sliced])
        grown = [old | new for old, new in zip(carried, found[: len(init)], strict=True)]
        if grown == carried:
            return [*grown, *found[len(init) :]]
        carried = grown


def _sliced(value: Value, index: int) -> Value:
    masks = {birth: mask[index] for birth, mask in value.masks.items() if mask[index].any()}
    return replace(value, array=value.array[index], masks=masks)
