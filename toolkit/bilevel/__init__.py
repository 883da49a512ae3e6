"""How do two levels descend together? Bilevel optimizers as pure pairs `(init, step)`.

problem = tk.bilevel.Problem(inner, outer, inner_data, outer_data)
init, step = tk.bilevel.SOBA(inner_step_size=0.1, outer_step_size=0.1, batch_size=64)(problem)
state = init(key, y0, theta0)
state, info = jax.jit(step)(state)

Both functions take `data=(inner_data, outer_data)` in place of the problem's, as arguments of the compiled program.
"""

from toolkit.bilevel.levels.level import Level
from toolkit.bilevel.levels.nested import NestedSolution, nested
from toolkit.bilevel.levels.nested_hypergradient import NestedHypergradient, nested_hypergradient
from toolkit.bilevel.methods.aid_itd import AID, ITD, DoubleLoop
from toolkit.bilevel.methods.amigo import AmIGO
from toolkit.bilevel.methods.bome import BOME
from toolkit.bilevel.methods.bsa import BSA
from toolkit.bilevel.methods.f2sa import F2SA
from toolkit.bilevel.methods.fsla import FSLA
from toolkit.bilevel.methods.hoag import HOAG
from toolkit.bilevel.methods.mrbo import MRBO
from toolkit.bilevel.methods.one_update import DARTS, SAMA, T1T2
from toolkit.bilevel.methods.pzobo import PZOBO
from toolkit.bilevel.methods.saba import SABA
from toolkit.bilevel.methods.soba import SOBA
from toolkit.bilevel.methods.srba import SRBA
from toolkit.bilevel.methods.stocbio import StocBiO
from toolkit.bilevel.methods.sustain import SUSTAIN
from toolkit.bilevel.methods.ttsa import TTSA
from toolkit.bilevel.methods.vrbo import VRBO
from toolkit.bilevel.parts.iteration import Record, iterate
from toolkit.bilevel.parts.method_settings import power_decay
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem
from toolkit.vocabulary.roles import BilevelMethod

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
    "BilevelMethod",
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


def __dir__() -> list[str]:
    return sorted(__all__)
