"""Lists that grow inside a staged loop: what is appended becomes the stacked output of the scan.

In `for x in xs: ys.append(f(x))` the block gets a `ListRecorder` in place of `ys`. What it records
is an output of the scan, and after the loop `ys` is a `StackedList`, which holds arrays `[len, ...]`
and becomes an ordinary list when something needs its items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.plain_python.refusals import UserLine, here, refuse


class ItemRun(NamedTuple):
    """Consecutive items of one type, as arrays."""

    length: int
    items: Any  # tree of arrays [length, ...]

    def unstacked(self) -> list[Any]:
        leaves, structure = jax.tree.flatten(self.items)
        columns = [jnp.unstack(leaf) for leaf in leaves]
        # Items without arrays, such as `()`, leave no columns to tell their number.
        if not columns:
            return [jax.tree.unflatten(structure, []) for _ in range(self.length)]
        return [jax.tree.unflatten(structure, row) for row in zip(*columns, strict=True)]


class SingleItem(NamedTuple):
    """A single item."""

    item: Any


class ListRecorder:
    """Stands for a list inside a staged loop that appends to it.

    The loop body may append to it and read its last item. `before` is a list with the last item at
    the start of the iteration, or an empty list.
    """

    def __init__(self, name: str, before: list[Any]) -> None:
        self.name = name
        self.before = before
        self.chunks: list[ItemRun | SingleItem] = []
        self.place: UserLine | None = None  # of the last append

    def append(self, item: Any) -> None:
        for leaf in jax.tree.leaves(item):
            if not tree.is_numeric(leaf):
                raise refuse(
                    f"`{self.name}.append`: only arrays and numbers can be appended inside a staged "
                    f"loop: got {leaf!r}. For a loop that runs as Python write "
                    "`for i in tk.control.unroll(range(n))`."
                )
        self.add([SingleItem(item)])

    def add(self, chunks: Sequence[ItemRun | SingleItem]) -> None:
        """Append what an inner block has appended."""
        self.chunks += chunks
        self.place = here()

    def extend(self, items: Any) -> None:
        # A list that an inner loop has grown is added as arrays, without taking it apart.
        if isinstance(items, StackedList) and not items.materialised:
            for item in items.prefix:
                self.append(item)
            self.add(items.runs)
            return
        if not isinstance(items, (list, tuple, StackedList)):
            raise refuse(
                f"`{self.name}.extend` inside a staged loop takes a list or a tuple: got "
                f"{type(items).__name__}."
            )
        for item in items:
            self.append(item)

    def __iadd__(self, items: Any) -> ListRecorder:
        self.extend(items)
        return self

    def refuse_reading(self) -> Exception:
        """The error of reading the list itself, which exists only after the loop."""
        return refuse(
            f"`{self.name}` is read inside the staged loop that appends to it: only its last item, "
            f"`{self.name}[-1]`, can be, where the list is not empty before. Keep what is needed in a "
            f"variable of its own, or use an array of fixed size and `{self.name}[i] = value`."
        )


class StackedList:
    """A list after the loop that grew it, kept as arrays until something needs its items.

    Turning it into a list costs one slice an item, a thousand operations for a thousand steps. So
    `jnp.stack`, `jnp.array`, `len`, `sum`, an item and a `for` use the arrays; any other use turns
    it into an ordinary list, once.

    `prefix`: the items before the loop; `runs`: the items that the loop appended.
    """

    def __init__(self, prefix: list[Any], runs: list[ItemRun]) -> None:
        self.prefix = prefix
        self.runs = runs
        self.materialised = False

    def as_list(self) -> list[Any]:
        """The list itself: one slice an item."""
        if not self.materialised:
            self.prefix.extend(item for run in self.runs for item in run.unstacked())
            self.runs, self.materialised = [], True
        return self.prefix

    def append(self, item: Any) -> None:
        self.as_list().append(item)

    def __len__(self) -> int:
        return len(self.prefix) + sum(run.length for run in self.runs)

    def __iter__(self) -> Any:
        return iter(self.as_list())

    def arrays(self) -> Any:
        """The tree of `[len, ...]` arrays where the items are of one type, else None."""
        if self.materialised:
            return None
        runs = [
            ItemRun(1, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x)) for x in self.prefix
        ]
        runs += self.runs
        if len({_item_type(run.items, 1) for run in runs}) != 1:
            return None
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(run.items for run in runs))

    def item(self, index: int) -> Any:
        """The item at a Python integer."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError("list index out of range")
        place = index % count
        if place < len(self.prefix):
            return self.prefix[place]
        place -= len(self.prefix)
        for run in self.runs:
            if place < run.length:
                return _at(run.items, place)
            place -= run.length
        raise AssertionError("every item is in the prefix or in a run")


def last_item(value: list[Any] | StackedList | ListRecorder) -> list[Any] | None:
    """A list with the last item; None if there is none, or none that is known."""
    if isinstance(value, ListRecorder):
        if not value.chunks:
            return value.before or None
        last = value.chunks[-1]
        return [_at(last.items, -1)] if isinstance(last, ItemRun) else [last.item]
    if not len(value):
        return None
    return [value.item(-1) if isinstance(value, StackedList) else value[-1]]


def stack_chunks(counts: list[int | None], stacked: list[Any], length: int) -> list[ItemRun]:
    """What a loop of `length` iterations appended, given each chunk's items over all iterations.

    Args:
      counts: for each chunk of one iteration its number of items; None for a single item.
      stacked: for each chunk its tree of `[length, ...]` (`[length, count, ...]` for a run).
    """
    blocks = [
        jax.tree.map(lambda leaf: leaf[:, None], items) if count is None else items
        for count, items in zip(counts, stacked, strict=True)
    ]
    widths = [1 if count is None else count for count in counts]
    kinds = {_item_type(block, 2) for block in blocks}
    # The appends of one iteration lie side by side along axis 1, and flattening keeps Python's order.
    if len(kinds) == 1:
        whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *blocks)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), whole)
        return [ItemRun(length * sum(widths), flat)]
    # One iteration appends items of different types, so no array can hold all of them. Each stays a
    # run of its own.
    return [
        ItemRun(count, _at(block, turn))
        for turn in range(length)
        for count, block in zip(widths, blocks, strict=True)
    ]


def _at(items: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], items)


def _item_type(block: Any, leading: int) -> Any:
    """The type of an item, given arrays of items with `leading` axes before those of an item."""
    leaves, structure = jax.tree.flatten(block)
    return structure, tuple((leaf.shape[leading:], leaf.dtype) for leaf in leaves)


def grow(value: Any, runs: list[ItemRun], aliased: bool) -> Any:
    """The list `value` with more items at its end.

    If another name may hold the same list, it must see the new items, so the list itself is extended.
    Else the items stay arrays.
    """
    if isinstance(value, ListRecorder):
        value.add(runs)
        return value
    if isinstance(value, StackedList):
        if value.materialised:
            value.prefix.extend(item for run in runs for item in run.unstacked())
        else:
            value.runs += runs
        return value
    if aliased:
        value.extend(item for run in runs for item in run.unstacked())
        return value
    return StackedList(value, list(runs))
