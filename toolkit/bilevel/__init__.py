"""Bilevel optimizers as pure pairs `(init, step)`.

problem = tk.bilevel.Problem(inner, outer, inner_data, outer_data)
init, step = tk.bilevel.SOBA(inner_step_size=0.1, outer_step_size=0.1, batch_size=64)(problem)
state = init(key, y0, theta0)
state, info = jax.jit(step)(state)
"""

from toolkit.bilevel.aid_itd import AID, ITD, DoubleLoop
from toolkit.bilevel.amigo import AmIGO
from toolkit.bilevel.bome import BOME
from toolkit.bilevel.bsa import BSA
from toolkit.bilevel.descent import power_decay
from toolkit.bilevel.f2sa import F2SA
from toolkit.bilevel.finite_difference import DARTS, SAMA, T1T2
from toolkit.bilevel.fsla import FSLA
from toolkit.bilevel.hoag import HOAG
from toolkit.bilevel.iteration import Record, iterate
from toolkit.bilevel.mrbo import MRBO
from toolkit.bilevel.multilevel import (
    Level,
    NestedHypergradient,
    NestedSolution,
    nested,
    nested_hypergradient,
)
from toolkit.bilevel.problem import Algorithm, Info, Problem
from toolkit.bilevel.pzobo import PZOBO
from toolkit.bilevel.saba import SABA
from toolkit.bilevel.soba import SOBA
from toolkit.bilevel.srba import SRBA
from toolkit.bilevel.stocbio import StocBiO
from toolkit.bilevel.sustain import SUSTAIN
from toolkit.bilevel.ttsa import TTSA
from toolkit.bilevel.vrbo import VRBO

__all__ = [
    "AID",
    "BOME",
    "BSA",
    "DARTS",
    "F2SA",
    "FSLA",
    "HOAG",
    "ITD",
    "MRBO",
    "PZOBO",
    "SABA",
    "SAMA",
    "SOBA",
    "SRBA",
    "SUSTAIN",
    "T1T2",
    "TTSA",
    "VRBO",
    "Algorithm",
    "AmIGO",
    "DoubleLoop",
    "Info",
    "Level",
    "NestedHypergradient",
    "NestedSolution",
    "Problem",
    "Record",
    "StocBiO",
    "iterate",
    "nested",
    "nested_hypergradient",
    "power_decay",
]
