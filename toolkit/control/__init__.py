"""Loops whose memory is a choice: `tk.loop`, `tk.while_loop` and their gradient policies."""

from toolkit.control.memory import memory_estimate
from toolkit.control.policies import Policy, checkpoint, forward, store, truncate
from toolkit.control.python.decorator import control_flow
from toolkit.control.python.errors import ControlFlowError
from toolkit.control.python.iterables import steps, unroll
from toolkit.control.python.mode import as_python
from toolkit.control.reversal import reconstruction_error, reversible
from toolkit.control.while_loop import LoopInfo

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
