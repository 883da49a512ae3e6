"""`tk.debug.guard`: a training step that notices a NaN, and says which line made it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit.debug.nonfinite import checks
from toolkit.debug.nonfinite.explain import explain
from toolkit.debug.nonfinite.nonfinite_report import NonFiniteReport
from toolkit.errors.readable import readable

# Which arguments a step donates is seen only after a call, and the second call may donate others: an argument
# that was a Python number is an array then. So all arrays are copied until two calls in a row have shown no
# new donation.
_SETTLED = 2
_LISTED = 4  # leaves that a message names


class NonFiniteError(FloatingPointError):
    """A guarded step returned a NaN or an infinity; the message says where it came from."""

    def __init__(self, message: str, call: int, report: NonFiniteReport | None):
        super().__init__(message)
        self.call = call  # of the guarded step, from 0
        self.report = report  # None where a second run stayed finite


class _RecordedCall(NamedTuple):
    """The arguments of one call, as far as the result of the call before does not hold them."""

    leaves: Sequence[Any]
    carried: Mapping[int, int]  # argument leaf -> leaf of the result of the call before
    structure: Any

    def arguments(self, before: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves = [
            before[self.carried[i]] if i in self.carried else leaf
            for i, leaf in enumerate(self.leaves)
        ]
        return jax.tree.unflatten(self.structure, leaves)


@dataclass(frozen=True)
class _Layout:
    """The leaves of a result that are looked at."""

    positions: tuple[int, ...]
    names: tuple[str, ...]
    infinite: jax.Array  # bool; may hold an infinity

    def chosen(self, results: Any) -> list[Any]:
        leaves = jax.tree.leaves(results)
        return [leaves[i] for i in self.positions]


class Guarded:
    """A step that looks for non-finite values; made by `guard`."""

    def __init__(self, step: Callable[..., Any], every: int):
        functools.update_wrapper(self, step, updated=())
        self._step = step
        self._every = every
        self._count = 0  # calls in all
        self._start: Mapping[tuple[Any, ...], Any] | None = None
        self._layouts: dict[Any, _Layout] = {}
        self._donated: set[int] = set()  # argument leaves that the step overwrites
        self._settled = 0  # calls since one more was found
        self._results: Any = ()  # of the last call
        self._forget()

    def _forget(self) -> None:
        self._calls: list[_RecordedCall] = []  # since the last look
        self._found: Any = False  # bool; of what does not come back

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            raise TypeError(
                "`guard` looks at values: got a traced argument; guard the step outside jit, grad "
                "and scan, or call tk.debug.explain on the whole."
            )
        if self._start is None:
            self._start = _start(args)
        call = self._recorded(leaves, structure)
        results = self._step(*args, **kwargs)
        self._learn_donations(leaves)
        self._calls.append(call)
        self._results = results
        self._count += 1
        if len(self._calls) == self._every:
            self.check()
        else:
            # A state that comes back in the next call keeps its NaN, so it is looked at once in `every`
            # calls. Only what does not come back has to be looked at now.
            self._look(frozenset(call.carried.values()))
        return results

    def check(self) -> None:
        """Looks at the calls since the last look; call it after the last step where `every` > 1.

        Raises: NonFiniteError.
        """
        if not self._calls:
            return
        self._look()
        calls, failed = self._calls, bool(self._found)
        self._forget()
        if failed:
            raise self._error(calls)

    def _look(self, left_out: frozenset[int] = frozenset()) -> None:
        layout = self._layout(self._results, left_out)
        chosen = layout.chosen(self._results)
        self._found = checks.any_spoilt(self._found, chosen, layout.infinite)

    def _recorded(self, leaves: Sequence[Any], structure: Any) -> _RecordedCall:
        """What a replay needs of this call: all of the first since the last look, later only what is new.

        What came back from the call before is not stored again: the replay makes it anew.
        """
        carried: Mapping[int, int] = {}
        if self._calls:
            results = jax.tree.leaves(self._results)
            before = {id(leaf): i for i, leaf in enumerate(results) if isinstance(leaf, jax.Array)}
            carried = {i: before[id(leaf)] for i, leaf in enumerate(leaves) if id(leaf) in before}
        kept = [None if i in carried else self._safe(i, leaf) for i, leaf in enumerate(leaves)]
        return _RecordedCall(kept, carried, structure)

    def _safe(self, position: int, leaf: Any) -> Any:
        """The leaf, copied if the step may overwrite it (a donated array) or the caller (a NumPy array)."""
        donated = self._settled < _SETTLED or position in self._donated
        changes = isinstance(leaf, np.ndarray) or (donated and isinstance(leaf, jax.Array))
        return leaf.copy() if changes else leaf

    def _learn_donations(self, leaves: Sequence[Any]) -> None:
        if self._settled == _SETTLED:
            return
        arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
        gone = {i for i, leaf in arrays.items() if leaf.is_deleted()}
        self._settled = self._settled + 1 if gone <= self._donated else 0
        self._donated |= gone

    def _layout(self, results: Any, left_out: frozenset[int] = frozenset()) -> _Layout:
        leaves, structure = jax.tree.flatten(results)
        key = structure, left_out, tuple(getattr(leaf, "dtype", None) for leaf in leaves)
        if key not in self._layouts:
            self._layouts[key] = _layout(results, self._start or {}, left_out)
        return self._layouts[key]

    def _error(self, calls: Sequence[_RecordedCall]) -> NonFiniteError:
        """The calls made again up to the first bad one, and that one explained."""
        name = getattr(self._step, "__name__", type(self._step).__name__)
        results: Any = ()
        for number, call in enumerate(calls, self._count - len(calls)):
            args, kwargs = call.arguments(jax.tree.leaves(results))
            # Copies, as the step may overwrite arguments that `explain` needs afterwards.
            spared, named = jax.tree.map(
                lambda a: a.copy() if isinstance(a, jax.Array) else a, (args, kwargs)
            )
            results = self._step(*spared, **named)
            layout = self._layout(results)
            spoilt = np.asarray(checks.spoilt(layout.chosen(results), layout.infinite))
            if not spoilt.any():
                continue
            bad = {layout.positions[i]: layout.names[i] for i in np.flatnonzero(spoilt)}
            report = _explained(self._step, args, kwargs, bad)
            listed = _listed(results, bad)
            text = f"call {number} of {name}, from 0, returned {listed}\n{report}"
            return NonFiniteError(text, number, report)
        return NonFiniteError(
            f"{name} returned something not finite in the last {len(calls)} calls, and did not when they "
            "were made again from the last good state: it must depend on its arguments alone, not on "
            "what it changes, draws or reads elsewhere.",
            self._count - 1,
            None,
        )


def _explained(
    step: Callable[..., Any], args: Any, kwargs: Any, bad: Collection[int]
) -> NonFiniteReport | None:
    bound = inspect.signature(step).bind(*args, **kwargs)

    @functools.wraps(step)
    def spoilt(*args: Any) -> Any:
        """What is bad of the step's results."""
        leaves, structure = jax.tree.flatten(step(*args, **bound.kwargs))
        return jax.tree.unflatten(
            structure, [leaf if i in bad else None for i, leaf in enumerate(leaves)]
        )

    return explain(spoilt, *bound.args)


def _listed(results: Any, bad: Mapping[int, str]) -> str:
    leaves = jax.tree.leaves(results)
    held = checks.held({name: leaves[i] for i, name in list(bad.items())[:_LISTED]})
    more = f" and {len(bad) - _LISTED} leaves more" if len(bad) > _LISTED else ""
    return ", ".join(f"{what} in {name}" for name, what in held.items()) + more


@readable
def guard(step: Callable[..., Any], every: int = 1) -> Guarded:
    """`step`, watched: a NaN or infinity in what it returns is an error that names the line.

    The calls since the last look are remembered: what came back from the call before by position,
    everything else, such as batches, as it was. On failure they run again from the last good
    state, and `tk.debug.explain` takes the bad one apart.

    A leaf that starts with infinities, as the best loss so far or a mask does, may keep them; one
    that starts with NaN is not looked at. It is told by its place: argument 0 at `['best']`, and the
    result, or its first element, at `['best']`.

    Args:
      step: a function of arrays that depends on its arguments alone, usually jitted, such as
        `step(state, batch) -> (state, info)`. Not looked at otherwise: its values are the same to
        the bit.
      every: calls between two looks, at least 1. Each look waits for the device. Results that the
        next call takes back, such as the state, are read only then; all others every time.
        `check()` of what this returns looks at once, for the end of a loop.

    Raises:
      NonFiniteError: by the call that looks, with `.report` and the number `.call` of the bad call.
      TypeError: inside `jit`, where there are no values to look at.

    Differentiation: none; guard the step that differentiates.

    Cost: the launch of a small program a call, and a pass over the state a look; the state as it was at
    the last look and the arguments since stay in memory. Arguments that `step` donates, and NumPy
    arrays, are copied.

    Example:
      step = tk.debug.guard(jax.jit(step), every=50)
    """
    if not callable(step):
        raise TypeError(f"`step` must be a function: got {step!r}; write guard(step).")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"`every` must be a positive int: got {every!r}.")
    return Guarded(step, every)


def _start(args: Any) -> Mapping[tuple[Any, ...], Any]:
    """(shape, what it holds) of the arguments that are not finite, by path in `args` and in the argument."""
    start: dict[tuple[Any, ...], Any] = {}
    for path, leaf in tree_flatten_with_path(args)[0]:
        if checks.can_fail(leaf) and (held := checks.held({"": leaf})):
            for key in (path, path[1:]):
                start.setdefault(key, (np.shape(leaf), held[""]))
    return start


def _layout(
    results: Any, start: Mapping[tuple[Any, ...], Any], left_out: Collection[int]
) -> _Layout:
    chosen: dict[int, str] = {}
    held: dict[str, str] = {}
    for i, (path, leaf) in enumerate(tree_flatten_with_path(results)[0]):
        name = f"result{keystr(path)}"
        # The state may be the first of several results, or the only one: see `guard` on how leaves are told.
        for key in (path, path[1:]) if len(path) > 1 else (path,):
            shape, what = start.get(key, (None, ""))
            if shape == np.shape(leaf):
                held.setdefault(name, what)
        unmeasured = i in left_out or checks.NAN in held.get(name, "")
        if checks.can_fail(leaf) and not unmeasured:
            chosen[i] = name
    names = tuple(chosen.values())
    return _Layout(tuple(chosen), names, checks.may_be_infinite(names, held))
