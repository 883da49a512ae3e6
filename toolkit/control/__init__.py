"""Loops whose memory is a choice: how do `tk.loop` and `tk.while_loop` run, and who differentiates them?

A loop is prepared once (`prepared`), and then handed to its policy (`policies`), which runs it.
"""

from toolkit.control.memory import memory_estimate
from toolkit.control.policies.checkpoint import checkpoint
from toolkit.control.policies.forward import forward
from toolkit.control.policies.policy import Policy
from toolkit.control.policies.reversible import reconstruction_error, reversible
from toolkit.control.policies.store import store
from toolkit.control.policies.truncate import truncate
from toolkit.control.while_loop import LoopInfo
from toolkit.faces import lazy

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

# `plain_python` imports the loops of this room, so importing it here would be a circle. These names are
# imported when someone first asks for them.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "toolkit.plain_python.decorator": ("control_flow",),
        "toolkit.plain_python.refusals": ("ControlFlowError",),
        "toolkit.plain_python.runtime.iterables": ("steps", "unroll"),
        "toolkit.plain_python.mode": ("as_python",),
    },
)
