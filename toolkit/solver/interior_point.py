"""A quadratic program as matrices on the host: by Clarabel, then to the last digits on its active set.

    minimise x'Px / 2 + q'x   where   E x + e = 0,  G x + g <= 0,  lower <= x <= upper

Letters: `n` unknowns, `p` equalities, `m` inequalities. All arrays are NumPy's, in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from toolkit.types import Status

_TOLERANCE = 1e-10  # of Clarabel: enough to tell which constraints are active
_CERTIFIED = 1e-6  # up to here a direction or a combination counts as 0 beside what it proves
_ROUNDS = 10  # of correcting the active set
_REFINEMENTS = 6  # of a system whose diagonal was shifted by _SHIFT to make it regular
_SHIFT = 1e-9
_SWEEPS = 4  # of scaling rows and columns to a largest entry of 1
_ROUNDING = 10


class Program(NamedTuple):
    """The arrays of one program."""

    P: np.ndarray  # [n, n]
    q: np.ndarray  # [n]
    E: np.ndarray  # [p, n]
    e: np.ndarray  # [p]
    G: np.ndarray  # [m, n]
    g: np.ndarray  # [m]
    lower: np.ndarray  # [n]
    upper: np.ndarray  # [n]


class Optimum(NamedTuple):
    """A solution, or NaN and the reason for it."""

    x: np.ndarray  # [n]
    nu: np.ndarray  # [p]
    lam: np.ndarray  # [m], nonnegative
    steps: int
    otherwise: int  # the `Status` where the residual is above the tolerance


class _Rows(NamedTuple):
    """All constraints as `A x + s = b` with `s` zero in the first `zero` rows, else nonnegative."""

    A: Any  # a csc_matrix of scipy.sparse
    b: np.ndarray
    zero: int


def solve(clarabel: Any, program: Program, max_steps: int, eps: float) -> Optimum:
    """The solution of `program`.

    Args:
      clarabel: the library.
      eps: the rounding with which the arrays were made.
    """
    arrays = [program.P, program.q, program.E, program.e, program.G, program.g]
    limits = np.concatenate([program.lower, program.upper])
    if not all(np.isfinite(one).all() for one in arrays) or np.isnan(limits).any():
        return _none(program, 0, Status.NOT_FINITE)
    if np.any(program.lower > program.upper) or np.any(
        (program.lower == np.inf) | (program.upper == -np.inf)
    ):
        return _none(program, 0, Status.INFEASIBLE)
    least = np.linalg.eigvalsh(program.P)[0] if program.P.size else 0.0
    if least < -_ROUNDING * len(program.q) * eps * np.abs(program.P).max(initial=0):
        return _none(program, 0, Status.STALLED)
    rows = _rows(program)
    made = _by_clarabel(clarabel, program.P, program.q, rows, max_steps)
    reason = _reason(clarabel, program, rows, made, max_steps)
    if reason is not None:
        return _none(program, made.iterations, reason)
    if made.status == clarabel.SolverStatus.MaxIterations:
        otherwise = Status.STEP_LIMIT
    else:
        otherwise = Status.STALLED
    point = _polished(program, rows, np.array(made.x), np.array(made.z), np.array(made.s))
    if not all(np.isfinite(one).all() for one in point):
        return _none(program, made.iterations, otherwise)
    return Optimum(*point, made.iterations, int(otherwise))


def _none(program: Program, steps: int, why: Status) -> Optimum:
    x, nu, lam = (np.full(len(one), np.nan) for one in (program.q, program.e, program.g))
    return Optimum(x, nu, lam, steps, int(why))


def _rows(program: Program) -> _Rows:
    identity = np.eye(len(program.q))
    fixed = program.lower == program.upper
    below = ~fixed & np.isfinite(program.lower)
    above = ~fixed & np.isfinite(program.upper)
    blocks = (program.E, identity[fixed], program.G, -identity[below], identity[above])
    right = (
        -program.e,
        program.lower[fixed],
        -program.g,
        -program.lower[below],
        program.upper[above],
    )
    import scipy.sparse  # not above: an import of the package loads nothing heavy

    matrix = scipy.sparse.csc_matrix(np.concatenate(blocks))
    return _Rows(matrix, np.concatenate(right), len(program.e) + int(fixed.sum()))


def _by_clarabel(clarabel: Any, P: np.ndarray, q: np.ndarray, rows: _Rows, max_steps: int) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_iter, settings.max_threads = False, max_steps, 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = _TOLERANCE
    # Rows with a bound of 1e20 would be left out: here such numbers are meant.
    settings.presolve_enable = False
    cones = [clarabel.ZeroConeT(rows.zero), clarabel.NonnegativeConeT(len(rows.b) - rows.zero)]
    import scipy.sparse

    upper = scipy.sparse.triu(scipy.sparse.csc_matrix(P), format="csc")
    return clarabel.DefaultSolver(upper, q, rows.A, rows.b, cones, settings).solve()


def _reason(
    clarabel: Any, program: Program, rows: _Rows, made: Any, max_steps: int
) -> Status | None:
    """Why there is no solution, as far as this is proved; None where there may be one."""
    states = clarabel.SolverStatus
    if made.status in (states.PrimalInfeasible, states.AlmostPrimalInfeasible):
        return Status.INFEASIBLE if _excludes(rows, np.array(made.z)) else Status.STALLED
    if made.status in (states.DualInfeasible, states.AlmostDualInfeasible):
        if not _descends(program, rows, np.array(made.x)):
            return Status.STALLED
        # A direction of endless descent says nothing about whether there is any point to start from.
        nothing = np.zeros_like(program.P), np.zeros_like(program.q)
        start = _by_clarabel(clarabel, *nothing, rows, max_steps)
        empty = start.status in (states.PrimalInfeasible, states.AlmostPrimalInfeasible)
        return Status.INFEASIBLE if empty else Status.UNBOUNDED
    return None


def _excludes(rows: _Rows, z: np.ndarray) -> bool:
    """Whether `z` combines the constraints to `0 <= a negative number` (Farkas)."""
    proof = -(rows.b @ z)
    small = _CERTIFIED * proof
    nonnegative = z[rows.zero :].min(initial=0) >= -small
    return bool(proof > 0 and nonnegative and np.abs(rows.A.T @ z).max(initial=0) <= small)


def _descends(program: Program, rows: _Rows, way: np.ndarray) -> bool:
    """Whether the constraints admit any step along `way`, and the objective falls at one rate."""
    rate = -(program.q @ way)
    change, small = rows.A @ way, _CERTIFIED * rate
    free = np.abs(change[: rows.zero]).max(initial=0) <= small
    free &= change[rows.zero :].max(initial=0) <= small
    return bool(rate > 0 and free and np.abs(program.P @ way).max(initial=0) <= small)


def _polished(
    program: Program, rows: _Rows, x: np.ndarray, z: np.ndarray, s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, nu, lam) from the point of an interior method, whose active set is corrected until it stays."""
    p, m = len(program.e), len(program.g)
    inequalities = slice(rows.zero, rows.zero + m)
    best = point = (np.clip(x, program.lower, program.upper), z[:p], np.maximum(z[inequalities], 0))
    left = _residual(program, *best)
    active = z[inequalities] > s[inequalities]
    at = _bounds_met(program, rows, z, s)
    for _ in range(_ROUNDS):
        point = _on_active_set(program, *point, active, at)
        possible = (
            np.clip(point[0], program.lower, program.upper),
            point[1],
            np.maximum(point[2], 0),
        )
        now = _residual(program, *possible)
        if np.isfinite(now) and now < left:
            best, left = possible, now
        new_active, new_at = _corrected(program, *point, active, at)
        if np.array_equal(new_active, active) and np.array_equal(new_at, at):
            break
        active, at = new_active, new_at
    return best


def _bounds_met(program: Program, rows: _Rows, z: np.ndarray, s: np.ndarray) -> np.ndarray:
    """`[n]`: -1 at the lower bound, 1 at the upper one, else 0."""
    fixed = program.lower == program.upper
    below = np.flatnonzero(~fixed & np.isfinite(program.lower))
    above = np.flatnonzero(~fixed & np.isfinite(program.upper))
    met = (z > s)[rows.zero + len(program.g) :]
    at = np.where(fixed, -1, 0)
    at[below[met[: len(below)]]] = -1
    at[above[met[len(below) :]]] = 1
    return at


def _on_active_set(
    program: Program,
    x: np.ndarray,
    nu: np.ndarray,
    lam: np.ndarray,
    active: np.ndarray,
    at: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest solution of the conditions in which active constraints are equalities, and no others hold."""
    x = np.where(at < 0, program.lower, np.where(at > 0, program.upper, x))
    lam, free = np.where(active, lam, 0.0), at == 0
    rows = np.concatenate([program.E, program.G[active]])
    system = np.zeros((free.sum() + len(rows),) * 2)
    k = int(free.sum())
    system[:k, :k] = program.P[np.ix_(free, free)]
    system[k:, :k], system[:k, k:] = rows[:, free], rows[:, free].T
    scales = _scales(system)
    scaled = scales[:, None] * system * scales
    shift = np.concatenate([np.full(k, _SHIFT), np.full(len(rows), -_SHIFT)])
    forces = np.concatenate([nu, lam[active]])
    from scipy.linalg import lapack

    factors, order, failed = lapack.dgetrf(scaled + np.diag(shift)) if len(system) else (0, 0, 1)
    if failed:
        return x, nu, lam
    for _ in range(_REFINEMENTS):
        slope = program.P @ x + program.q + rows.T @ forces
        values = np.concatenate([program.E @ x + program.e, (program.G @ x + program.g)[active]])
        left = -scales * np.concatenate([slope[free], values])
        move = scales * lapack.dgetrs(factors, order, left)[0]
        x = x.copy()
        x[free] += move[:k]
        forces = forces + move[k:]
    lam = lam.copy()
    lam[active] = forces[len(nu) :]
    return x, forces[: len(nu)], lam


def _scales(matrix: np.ndarray) -> np.ndarray:
    scales = np.ones(len(matrix))
    for _ in range(_SWEEPS):
        largest = np.abs(scales[:, None] * matrix * scales).max(1, initial=0)
        scales = scales / np.sqrt(np.where(largest > 0, largest, 1))
    return scales


def _corrected(
    program: Program,
    x: np.ndarray,
    nu: np.ndarray,
    lam: np.ndarray,
    active: np.ndarray,
    at: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The active set with what is violated taken in, and what pulls instead of pushing left out."""
    small = _TOLERANCE * (1 + np.abs(x).max(initial=0))
    values = program.G @ x + program.g
    slope = program.P @ x + program.q + program.E.T @ nu + program.G.T @ lam
    fixed = program.lower == program.upper
    kept = np.where(at < 0, slope > -small, slope < small) | fixed
    at = np.where((at != 0) & ~kept, 0, at)
    at = np.where((at == 0) & (x < program.lower - small), -1, at)
    at = np.where((at == 0) & (x > program.upper + small), 1, at)
    return np.where(active, lam > -small, values > small), at


def _residual(program: Program, x: np.ndarray, nu: np.ndarray, lam: np.ndarray) -> float:
    slope = program.P @ x + program.q + program.E.T @ nu + program.G.T @ lam
    cut = np.clip(slope, x - program.upper, x - program.lower)
    left = (cut, program.E @ x + program.e, np.maximum(program.G @ x + program.g, -lam))
    return float(np.linalg.norm(np.concatenate(left)))
