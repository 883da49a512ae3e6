"""Loops whose memory is a choice: `tk.loop`, `tk.while_loop` and their gradient policies."""

from typing import TYPE_CHECKING

from toolkit.control.memory import memory_estimate
from toolkit.control.policies.checkpoint import checkpoint
from toolkit.control.policies.forward import forward
from toolkit.control.policies.policy import Policy
from toolkit.control.policies.reversible import reconstruction_error, reversible
from toolkit.control.policies.store import store
from toolkit.control.policies.truncate import truncate
from toolkit.control.while_loop import LoopInfo
from toolkit.faces import lazy

if TYPE_CHECKING:
    from toolkit.plain_python.decorator import control_flow
    from toolkit.plain_python.errors import ControlFlowError
    from toolkit.plain_python.mode import as_python
    from toolkit.plain_python.runtime.iterables import steps, unroll

__all__ = [
    "ControlFlowError",
    "LoopInfo",
    "Policy",
    "as_python",
    "checkpoint",
    "control_flow",
    "forward",
    "memory_estimate",
    "reconstruction_error",
    "reversible",
    "steps",
    "store",
    "truncate",
    "unroll",
]

# Plain Python loops stand on the loops of this room, so it cannot import them: their names load on first use.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "toolkit.plain_python.decorator": ("control_flow",),
        "toolkit.plain_python.errors": ("ControlFlowError",),
        "toolkit.plain_python.runtime.iterables": ("steps", "unroll"),
        "toolkit.plain_python.mode": ("as_python",),
    },
)
