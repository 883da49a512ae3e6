"""`tk.while_loop`: a loop that ends on a condition, and whose derivative is made by a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from toolkit.control.policies.policy import Policy, require_policy
from toolkit.control.policies.store import store
from toolkit.control.prepared import prepare_while
from toolkit.errors.readable import readable
from toolkit.leaves.containers import packed
from toolkit.types import Tree


class LoopInfo(NamedTuple):
    """How a loop ended; arrays without gradient."""

    steps: Array  # [] int32, steps made
    stopped: Array  # [] bool: the condition had become false; else `max_steps` was reached


@readable
def while_loop(
    cond: Callable[[Tree], Any],
    body: Callable[[Tree], Tree],
    init: Tree,
    max_steps: int | None = None,
    gradient: Policy = store(),
    *,
    with_info: bool = False,
) -> Any:
    """`carry = body(carry)` while `cond(carry)` holds, and at most `max_steps` times.

    As `jax.lax.while_loop`, but arrays that the functions close over are differentiated, numbers in
    `init` are promoted as `jax.lax.scan` does, and with `max_steps` there is reverse mode, whose
    time is that of the steps that were made.

    Args:
      cond: `cond(carry)` -> one boolean, of shape ().
      body: `body(carry)` -> the next carry, of the same types.
      init: the first carry: arrays and numbers; integers, booleans, keys and None are carried.
      max_steps: None, or the most steps that may be made; a positive int.
      gradient: one of `tk.control`'s policies.
      with_info: whether to return a `LoopInfo` too.

    Returns: the last carry, also if `max_steps` ended the loop; with `with_info`, the pair
    `(carry, LoopInfo(steps, stopped))`.

    Raises:
      TypeError: the body changes the carry's types, or the condition is not one boolean.
      ValueError: the policy needs `max_steps`.

    Differentiation: without `max_steps` forward mode; with it both modes, any order. Under
    `tk.control.forward()` both modes, with or without, and forward mode over them. Where a mode is
    missing, an error names what to use. The number of steps counts as constant.

    Cost: a gradient takes a buffer of `max_steps` carries under `store()`, fewer under
    `checkpoint()`, and the time of the steps made; so does forward mode over it, as in
    `jax.hessian`. Reverse mode over a derivative runs a scan of `max_steps` steps, of which those
    after the end are skipped. Under `vmap` each step of a differentiated loop copies the buffer,
    because the batch elements may end at different steps, and none of that scan is skipped.
    """
    require_policy(gradient)
    loop = prepare_while(cond, body, init, max_steps)
    carry, steps = gradient.run_while(loop)
    if not with_info:
        return packed(carry)
    # The steps alone do not tell: after exactly `max_steps` steps the condition may be false too.
    return packed(carry), LoopInfo(steps, jnp.logical_not(loop.cond(loop.closed, carry)))
