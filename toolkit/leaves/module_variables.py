"""Modules of flax's nnx in a tree: their parameters are trained, what else they hold is carried.

To JAX such a module is a tree of arrays. The mean of a batch norm and the weights of a layer look alike in it,
and a solver would move both. And a call of a module may change it: a function that is handed a copy, as JAX's
are, then loses the change, and a batch norm would never learn what its mean is.

flax is imported by nobody here: a tree holds no module before its user has imported nnx.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from toolkit.types import Tree

_R = TypeVar("_R")


def carried(tree: Tree) -> Tree | None:
    """Booleans like `tree`, true at leaves of modules that belong to no `nnx.Param`. None without modules.

    Raises: ValueError: a variable stands in two places, where JAX would make two variables of it.
    """
    if not _holds_modules(tree):
        return None
    _refuse_shared(tree)
    return jax.tree.map(_mask, tree, is_leaf=_is_of_nnx)


def why_nothing_moves(tree: Tree, otherwise: str) -> str:
    """The end of a message on a tree without leaves to move: about modules, where it holds any."""
    return "a module of nnx moves in its nnx.Params alone" if _holds_modules(tree) else otherwise


def call_unchanged(name: str, call: Callable[..., _R], *trees: Tree, remedy: str = "") -> _R:
    """`call(*trees)`, refused where it changes a variable of a module in `trees` that is no parameter.

    Args:
      name: of the user's function.
      remedy: another way to keep the change than to not make it.

    Raises: ValueError that names the variable's path, as `bn.mean`.
    """
    if not any(map(_holds_modules, trees)):
        return call(*trees)
    before = [dict(_leaves(tree)) for tree in trees]
    result = call(*trees)
    for known, tree in zip(before, trees, strict=True):
        for path, (leaf, kind) in _leaves(tree):
            if path in known and known[path][0] is not leaf:
                raise ValueError(
                    f"`{name}` must leave the variables of its modules as they are: it changes `{path}` "
                    f"({kind}), in a copy that is lost; use the module as in evaluation "
                    f"(use_running_average=True, deterministic=True, module.eval()){remedy}."
                )
    return result


def _nnx() -> Any:
    return sys.modules.get("flax.nnx")


def _is_of_nnx(node: Any) -> bool:
    nnx = _nnx()
    return isinstance(node, nnx.Module | nnx.Variable)


def _holds_modules(tree: Tree) -> bool:
    if _nnx() is None:
        return False
    return any(map(_is_of_nnx, jax.tree.leaves(tree, is_leaf=_is_of_nnx)))


def _mask(node: Any) -> Any:
    nnx = _nnx()
    if isinstance(node, nnx.Variable):
        trained = isinstance(node, nnx.Param)
        return jax.tree.map(lambda _: not trained, node)
    if not isinstance(node, nnx.Module):
        return False
    inside = lambda part: isinstance(part, nnx.Variable)
    other = lambda part: _mask(part) if inside(part) else True
    return jax.tree.map(other, node, is_leaf=inside)


def _variables(tree: Tree) -> Iterator[tuple[str, Any]]:
    """The variables, each under its path, as `bn.mean`."""
    nnx = _nnx()
    inside = lambda part: isinstance(part, nnx.Variable)
    for keys, part in jax.tree_util.tree_leaves_with_path(tree, is_leaf=inside):
        if inside(part):
            yield ".".join(jax.tree_util.keystr((key,), simple=True) for key in keys), part


def _leaves(tree: Tree) -> Iterator[tuple[str, tuple[Any, str]]]:
    """The arrays of variables that are no parameters, by path, with the name of the variable's class."""
    for path, variable in _variables(tree):
        if not isinstance(variable, _nnx().Param):
            for leaf in jax.tree.leaves(variable):
                yield path, (leaf, type(variable).__name__)


def _refuse_shared(tree: Tree) -> None:
    known: dict[int, str] = {}
    for path, variable in _variables(tree):
        other = known.setdefault(id(variable), path)
        if other != path:
            raise ValueError(
                f"a module must hold each variable once: `{path}` is `{other}` too, and as leaves of a tree "
                "they would be trained apart; call one layer in both places instead of keeping it twice."
            )
