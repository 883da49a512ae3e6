"""Which steps lead to a solution? Solvers: settings that bind to a problem and show their steps."""

from toolkit.solver.anderson import Anderson
from toolkit.solver.bisection import Bisection
from toolkit.solver.block_coordinate_descent import BlockCoordinateDescent
from toolkit.solver.fixed_point import FixedPointIteration
from toolkit.solver.gradient_descent import GradientDescent
from toolkit.solver.jaxopt_forms import answer_jaxopt
from toolkit.solver.lbfgs import LBFGS
from toolkit.solver.mirror_descent import MirrorDescent
from toolkit.solver.newton import Newton
from toolkit.solver.optax import Optax
from toolkit.solver.optimistix import Optimistix
from toolkit.solver.projected_gradient import ProjectedGradient
from toolkit.solver.proximal_gradient import ProximalGradient
from toolkit.solver.quadratic_program import QuadraticProgram
from toolkit.solver.scipy import Scipy
from toolkit.vocabulary.roles import Solver

__all__ = [
    "LBFGS",
    "Anderson",
    "Bisection",
    "BlockCoordinateDescent",
    "FixedPointIteration",
    "GradientDescent",
    "MirrorDescent",
    "Newton",
    "Optax",
    "Optimistix",
    "ProjectedGradient",
    "ProximalGradient",
    "QuadraticProgram",
    "Scipy",
    "Solver",
]

for _name in __all__:
    _cls = globals()[_name]
    if isinstance(_cls, type):  # `Solver` is a union of them all
        answer_jaxopt(_cls, "fixed_point" if _cls in (Anderson, FixedPointIteration) else "argmin")


def __dir__() -> list[str]:
    return sorted(__all__)
