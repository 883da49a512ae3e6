"""Which leaves of a run's state hold a NaN or an infinity that they should not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from toolkit.debug.nonfinite import checks
from toolkit.run.store import metrics
from toolkit.run.store.arrays import named_leaves


class StateWatch(NamedTuple):
    """What the leaves of a state may hold: finite numbers, and NaN or infinity where the first state held them."""

    names: tuple[str, ...]  # of the leaves that can fail
    may_hold: np.ndarray  # bool [names, 2]: a NaN, an infinity

    def bad(self, found: np.ndarray) -> dict[str, str]:
        """The leaves that are not finite, by name, and what they hold.

        Args:
            found: bool [names, 2], what a state holds, as `nonfinite.kinds` says of its leaves.
        """
        spoilt = np.flatnonzero((found & ~self.may_hold).any(axis=1))
        return {title(self.names[i]): checks.in_words(found[i]) for i in spoilt}


def watch(state: Any, start: Mapping[str, str]) -> StateWatch:
    """The watch over states of this structure. `start` is what `held` said of the first one."""
    names = tuple(name for name, leaf in named_leaves(state).items() if checks.can_fail(leaf))
    # A leaf that starts with an infinity may keep infinities. One that starts with a NaN may hold both: NaN
    # often stands for "not set", and the value that is set later may be an infinity.
    kept = [(checks.NAN in start.get(name, ""), name in start) for name in names]
    return StateWatch(names, np.array(kept, bool).reshape(len(names), 2))


def held(state: Any) -> dict[str, str]:
    """What the leaves of a state hold that is not finite, by name."""
    leaves = named_leaves(state).items()
    return checks.held({name: leaf for name, leaf in leaves if checks.can_fail(leaf)})


def bad_metrics(numbers: Mapping[str, Any]) -> dict[str, str]:
    """The metrics that are not finite, by name, and what they are."""
    return checks.held({name: numbers[name] for name in metrics.nonfinite(dict(numbers))})


def title(name: str) -> str:
    """A leaf of the state as messages name it, apart from metrics of the same name."""
    return f"state/{name}"
