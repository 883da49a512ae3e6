"""`tk.loop`: a scan whose derivative is made by a policy."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.control.policies.policy import Policy, require_policy
from toolkit.control.policies.store import store
from toolkit.control.prepared import prepare
from toolkit.control.progress import printer
from toolkit.errors.readable import readable
from toolkit.leaves.containers import packed
from toolkit.types import Tree


@readable
def loop(
    body: Callable[[Tree, Tree], tuple[Tree, Tree]],
    init: Tree,
    xs: Tree = None,
    length: int | None = None,
    gradient: Policy = store(),
    *,
    progress: bool = False,
) -> tuple[Tree, Tree]:
    """`carry, y = body(carry, x)` for each entry of `xs`, as `jax.lax.scan`.

    The policy says how the derivative is made, and never changes the value. Under each policy the
    arrays that `body` closes over have derivatives. `body` is traced once, and once more if a number
    in `init` has to be promoted.

    Args:
      body: `body(carry, x)` -> `(carry, y)`; the carry keeps its types.
      init: the first carry: arrays and numbers; integers, booleans, keys and None are carried. A
        Python number takes the type that the body gives it.
      xs: arrays with the step as leading axis, or None.
      length: the number of steps, where `xs` does not tell it.
      gradient: one of `tk.control`'s policies: `store()`, `checkpoint()`, `truncate(k)`,
        `reversible(inverse)`, `forward()`.
      progress: True prints at most 20 lines to stderr, such as `loop: 300/1000`, by a host
        callback. A step counts once, also if the loop is differentiated, run again or batched.

    Returns: the last carry, and the `y` of all steps, with the step as leading axis.

    Raises:
      TypeError: `body` returns no pair, or changes the carry's types.
      ValueError: `xs` and `length` do not fit.

    Differentiation: the policy's; where it lacks a mode, an error names one that has it.

    Cost: the policy's; `tk.control.memory_estimate` tells the memory beforehand.
    """
    require_policy(gradient)
    ready = prepare(body, init, xs, length)
    if progress:
        ready = ready._replace(ticker=printer(ready.length))
    return packed(gradient.run(ready))
