"""Bilevel optimizers as pure pairs `(init, step)`.

problem = tk.bilevel.Problem(inner, outer, inner_data, outer_data)
init, step = tk.bilevel.SOBA(inner_step_size=0.1, outer_step_size=0.1, batch_size=64)(problem)
state = init(key, y0, theta0)
state, info = jax.jit(step)(state)
"""

from toolkit.bilevel.amigo import AmIGO
from toolkit.bilevel.fsla import FSLA
from toolkit.bilevel.problem import Algorithm, Info, Problem
from toolkit.bilevel.soba import SOBA
from toolkit.bilevel.stocbio import StocBiO

__all__ = ["FSLA", "SOBA", "Algorithm", "AmIGO", "Info", "Problem", "StocBiO"]
