"""`Lineax`: the solvers of lineax, as linear solvers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from toolkit import tree
from toolkit.derive.on_devices import device_axes
from toolkit.derive.refusal import naming_loops
from toolkit.errors.libraries import missing
from toolkit.errors.readable import readable
from toolkit.jaxprs.lift import lift
from toolkit.leaves.promotion import standard_promotion
from toolkit.linear.judge import (
    checked,
    divided,
    flat_system,
    judge,
    multiplied,
    start,
    without_reverse_mode,
)
from toolkit.settings import NonNegative, settings
from toolkit.types import LinearInfo, Matvec, Tree
from toolkit.vocabulary.kinds import Given

_ITERATIVE = ("CG", "BiCGStab", "GMRES", "LSMR")
_DIAGONALS = ("Diagonal", "Tridiagonal")
_DIRECT = ("LU", "QR", "SVD", "Cholesky", *_DIAGONALS, "AutoLinearSolver")
# Those that are told what A is, as lineax asks for it. The residual then tells whether it is.
_PRESUMED = {
    "CG": "positive_semidefinite_tag",
    "Cholesky": "positive_semidefinite_tag",
    "Diagonal": "diagonal_tag",
    "Tridiagonal": "tridiagonal_tag",
}
_Named = Literal[
    "AutoLinearSolver",
    "BiCGStab",
    "CG",
    "Cholesky",
    "Diagonal",
    "GMRES",
    "LSMR",
    "LU",
    "QR",
    "SVD",
    "Tridiagonal",
]
_LineaxSolver = Annotated[
    Any,
    Given(
        "a solver of lineax, such as lineax.CG(rtol=1e-8, atol=1e-8)",
        fits=lambda value: not isinstance(value, type) and hasattr(value, "assume_full_rank"),
        error=TypeError,
    ),
]


@settings("lineax")
class Lineax:
    """Any solver of lineax for square systems.

        tk.adjoint.Implicit(tk.linear.Lineax(lineax.CG(rtol=1e-8, atol=1e-8)))

    Iterative solvers stop by their own rule, in units of the largest entry of b; the status then compares the
    residual with `tol`, whatever lineax says of its result. CG and Cholesky are told that A is
    positive semidefinite, Diagonal and Tridiagonal that it has this form; direct solvers form the matrix, these
    two its diagonals alone. Of a complex b they solve the real system twice as large.

    Args:
      solver: of lineax, but for Triangular, which must know which triangle it gets. A config writes the
        name of its class, such as CG; iterative ones then stop at `tol`.
      tol: relative to ||b||; decides the status. None: sqrt(eps).

    Returns: x is NaN where a direct solver but SVD leaves a residual above `eps^(1/4)` and `tol`: A is singular, or
    not of the form that the solver presumes. `info.products` counts what lineax tells of its steps.

    Raises:
      TypeError: `solver` is none of lineax.
      ValueError: Triangular, or an inner solver of Normal that is unfit for `A'A`; inside `jax.shard_map`
        or `jax.pmap`.
      ImportError: lineax is not installed (the extra `solvers`).

    Differentiation: through `tk.adjoint.Implicit`; lineax's own rule is not used.

    Cost: that of the solver, and one product for the residual. LSMR and Normal form products with `A'`, too.
    """

    solver: _Named | _LineaxSolver
    tol: NonNegative | None = None

    @property
    def symmetric_only(self) -> bool:
        """Whether it needs a symmetric A: CG and Cholesky."""
        return _PRESUMED.get(self._name) == "positive_semidefinite_tag"

    @property
    def needs_symmetry(self) -> bool:
        """As `symmetric_only`."""
        return self.symmetric_only

    @property
    def _name(self) -> str:
        return self.solver if isinstance(self.solver, str) else type(self.solver).__name__

    @readable
    @standard_promotion  # lineax mixes types
    def __call__(self, matvec: Matvec, b: Tree, x0: Tree | None = None) -> tuple[Tree, LinearInfo]:
        try:
            import lineax
        except ImportError as error:
            raise missing("lineax", "tk.linear.Lineax") from error
        if device_axes():
            # lineax compares types that name the devices with types that do not.
            raise ValueError(
                "`linear_solver` must not be Lineax inside jax.shard_map or jax.pmap; use jax.jit with a "
                "NamedSharding, or tk.linear.CG, BiCGStab or Dense."
            )
        matvec, first = checked(matvec, b), start(b, x0)  # zeros without x0
        eps, tol = tree.eps(b), self.tol
        tol = eps**0.5 if tol is None else tol
        if tree.size(b) == 0:
            return judge(matvec, b, b, 0, tol)
        unit = tree.unit(b)
        b, first = divided(b, unit), divided(first, unit)
        # A map of real and complex leaves together is linear over the reals alone. So all become real, unless
        # that would lose a diagonal.
        paired = self._name not in _DIAGONALS
        as_real = tree.as_real if paired else lambda leaves: leaves
        as_like = tree.as_like if paired else lambda _, leaves: leaves
        product, flat, back = flat_system(lambda v: as_real(matvec(as_like(b, v))), as_real(b))
        begin = None if x0 is None else tree.ravel(as_real(first))[0].astype(flat.dtype)
        with naming_loops(
            f"`linear_solver` must need no transposed product where `fun` contains a loop on data: {self._name} "
            "of lineax does; use its GMRES or LU, or tk.linear.GMRES."
        ):
            vector, steps = _run(lineax, self._made(lineax, tol), product, flat, begin)
        x = _or_start(as_like(b, back(vector)), matvec, b, None if x0 is None else first, tol)
        products = _products_per_step(self._made(lineax, tol), flat.size) * steps
        products += x0 is not None
        x, info = judge(matvec, b, x, steps, tol, products=products)
        x = multiplied(x, unit)
        if self._name not in _DIRECT:
            return without_reverse_mode("Lineax", x), info
        # An elimination on a singular matrix divides by rounding, and a solver that presumes another form solves
        # another system. Neither has stopped short: such an x says nothing.
        kept = (self._name == "SVD") | (info.residual <= jnp.maximum(tol, eps**0.25))
        return tree.nan_unless(kept, x), info

    def _made(self, lineax: Any, tol: Any) -> Any:
        """The solver itself, where it was given by name."""
        if not isinstance(self.solver, str):
            return self.solver
        made = getattr(lineax, self.solver)
        if self.solver in _ITERATIVE:
            # The residual is compared with `atol + rtol |b|`, and the largest entry of b is 1.
            return made(rtol=tol / 2, atol=tol / 2, norm=tree.norm)
        return made(well_posed=None) if self.solver == "AutoLinearSolver" else made()


def _run(
    lineax: Any, solver: Any, product: Matvec, b: Array, x0: Array | None
) -> tuple[Array, Array | int]:
    """`x` and the steps made; `init` and `compute` are what a solver of lineax consists of."""
    tag = _PRESUMED.get(type(solver).__name__)
    tags = () if tag is None else getattr(lineax, tag)
    options = {} if x0 is None else {"y0": x0}
    if isinstance(solver, lineax.LSMR):
        # Its numbers are of the type of a Python float, and it mixes them with no other.
        wide, narrow = jnp.result_type(float), product
        b, product = b.astype(wide), lambda v: narrow(v).astype(wide)
        options = {name: start.astype(wide) for name, start in options.items()}
    # lineax keeps the function of an operator for ever, and must keep no array with it.
    lifted = lift(product, b)
    like = jax.ShapeDtypeStruct(b.shape, b.dtype)
    operator = lineax.FunctionLinearOperator(
        Partial(lifted.call, lifted.closed), like, tags, closure_convert=False
    )
    if isinstance(solver, lineax.Cholesky):
        matrix = operator.as_matrix()
        # In the symmetric form of a composite problem, what the proximal map holds fixed has rows of 0 on both
        # sides. Cholesky would fail on these.
        held = jnp.all(matrix == 0, axis=1).astype(matrix.dtype)
        operator = lineax.MatrixLinearOperator(matrix + jnp.diag(held), tags)
    try:
        state = solver.init(operator, options)
    except ValueError as error:
        raise ValueError(
            "`solver` must be one of lineax that solves a square system given by its products, such as "
            f"{', '.join(_ITERATIVE + _DIRECT)} or Normal of CG or Cholesky: got "
            f"{type(solver).__name__} ({' '.join(str(error).split())})."
        ) from error
    x, _, told = solver.compute(state, b, options)
    return x, told.get("num_steps", b.size)


def _or_start(x: Tree, matvec: Matvec, b: Tree, x0: Tree | None, tol: Any) -> Tree:
    """`x`, or the start where that is a solution already: lineax's BiCGStab divides 0 by 0 there."""
    if x0 is None:
        begin, left = jax.tree.map(jnp.zeros_like, b), tree.norm(b)
    else:
        begin, left = x0, tree.norm(jax.tree.map(jnp.subtract, b, matvec(x0)))
    solved = ~tree.all_finite(x) & (left <= tol * tree.norm(b))
    return tree.where(solved, begin, x)


def _products_per_step(solver: Any, size: int) -> int:
    """Products of a step as lineax counts it."""
    name = type(solver).__name__
    if name == "GMRES":  # a step is a restart
        return min(solver.restart, size)
    if name == "Normal":
        return 2 * _products_per_step(solver.inner_solver, size)
    return 2 if name in ("BiCGStab", "LSMR") else 1
