"""Which leaves of a run's state are not finite, and may not be so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.debug import nonfinite
from toolkit.run import metrics
from toolkit.run.arrays import named_leaves


class Watch(NamedTuple):
    """The leaves of a state that are looked at. What a state starts with it may keep."""

    names: tuple[str, ...]
    positions: tuple[int, ...]  # among the leaves of the state
    infinite: jax.Array  # [names] bool; may hold infinities

    def bad(self, state: Any) -> dict[str, str]:
        """The leaves that are not finite, by name, and what they hold. Waits for the device."""
        leaves = jax.tree.leaves(state)
        chosen = [leaves[position] for position in self.positions]
        spoilt = np.asarray(nonfinite.spoilt(chosen, self.infinite))
        if not spoilt.any():
            return {}
        found = nonfinite.held({self.names[i]: chosen[i] for i in np.flatnonzero(spoilt)})
        return {title(name): what for name, what in found.items()}


def watch(state: Any, start: Mapping[str, str]) -> Watch:
    """Of states like this one, where `start` is what `held` said of the first."""
    chosen = {
        name: position
        for position, (name, leaf) in enumerate(named_leaves(state).items())
        if nonfinite.can_fail(leaf) and nonfinite.NAN not in start.get(name, "")
    }
    names = tuple(chosen)
    return Watch(names, tuple(chosen.values()), nonfinite.may_be_infinite(names, start))


def held(state: Any) -> dict[str, str]:
    """What the leaves of a state hold that is not finite, by name."""
    leaves = named_leaves(state).items()
    return nonfinite.held({name: leaf for name, leaf in leaves if nonfinite.can_fail(leaf)})


def bad_metrics(numbers: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that are not finite, by name, and what they are."""
    return nonfinite.held({name: numbers[name] for name in metrics.nonfinite(dict(numbers))})


def title(name: str) -> str:
    """A leaf of the state as messages name it, apart from metrics of the same name."""
    return f"state/{name}"
