"""What usually helps, for the common ways to make a NaN or an infinity."""

from __future__ import annotations

from toolkit.debug.nonfinite.origins import Birth, Operand
from toolkit.errors.frames import is_ours

_WHERE = (
    "If jnp.where masks the value afterwards, mask the operand too, `f(jnp.where(ok, x, 1.0))`: the "
    "backward pass multiplies the bad slope by 0, and 0 * inf = NaN."
)
_SQRT_SLOPE = "the slope of sqrt (of a norm, distance, deviation) is infinite at 0: take `jnp.sqrt(x + 1e-12)`."
_ADAM = "set `eps_root=1e-8` in Adam: at a zero second moment the slope of its sqrt is infinite."
_LOG = (
    "bound the operand, `jnp.log(jnp.maximum(x, eps))`; of a softmax or sigmoid take "
    "jax.nn.log_softmax or jax.nn.log_sigmoid."
)
_EXP = (
    "exp overflows: subtract the maximum first, as jax.nn.softmax, jax.nn.logsumexp and "
    "jax.nn.log_softmax do; for log(1 + exp(x)) take jax.nn.softplus."
)
_ON_PURPOSE = (
    "this is written on purpose, in place of a wrong number: a solve diverged, or a rule could not do "
    "its work. See `solution.info.status` and `hg.report.status` of that call; a smaller step size often helps."
)
_ROOTS = ("cbrt", "integer_pow", "pow", "rsqrt", "sqrt")
_OPTAX = "optax"
_LARGEST = {"float16": 6.6e4, "bfloat16": 3.4e38, "float32": 3.4e38, "float64": 1.7e308}


def suggest(birth: Birth, phase: str) -> str | None:
    """A remedy for the place where something non-finite is made, or None."""
    found = _remedy(birth, phase)
    about_slopes = phase != "forward" and birth.operation not in ("constant", "input")
    # In a derivative most faults come from the slope of a value that `jnp.where` throws away afterwards. The
    # hint is added to what helps for slopes, and left out where the numbers themselves are too large.
    if found and about_slopes and found != _ADAM and "overflows" not in found:
        return f"{found} {_WHERE}"
    return found


def _remedy(birth: Birth, phase: str) -> str | None:
    operation, operands = birth.operation, birth.operands
    if operation == "input":
        return "look where this argument is made: the computation gets it non-finite."
    if operation == "constant" and is_ours(birth.inside.file):
        return _ON_PURPOSE
    if operation == "constant":
        return (
            "give a large finite number instead of this constant, or see that what is built on it (a "
            "mask of -inf) leaves one entry finite in each row."
        )
    if not operands:
        return None
    if operation in ("log", "log1p", "log2"):
        return _LOG
    if operation in _ROOTS:
        return _root(birth)
    if operation == "div":
        return _division(birth, phase)
    if operation in ("exp", "exp2", "expm1", "sinh", "cosh"):
        return _EXP
    if operation in ("acos", "asin", "acosh", "atanh", "erf_inv"):
        return (
            f"the operand of {operation} leaves its range: clip it just inside, "
            "`jnp.clip(x, -1 + eps, 1 - eps)`; for the angle of two vectors take jnp.arctan2."
        )
    if operation in ("cholesky", "eigh", "svd", "qr", "lu", "triangular_solve"):
        return (
            "the matrix is singular, indefinite or has equal eigenvalues: symmetrise it and add a "
            "multiple of the identity, `A + eps * jnp.eye(n)`."
        )
    return _arithmetic(birth)


def _root(birth: Birth) -> str:
    operand = birth.operands[0]
    fractional = birth.operation != "integer_pow"
    if fractional and operand.negative:
        if birth.operation == "sqrt" and "sub" in birth.makers:
            return (
                "the operand is a difference that falls below 0, perhaps by rounding: bound it, "
                "`jnp.sqrt(jnp.maximum(x, 0))`; for E[x^2] - E[x]^2 take jnp.var or jnp.std."
            )
        return f"{birth.operation} of a negative base: bound the operand, `jnp.maximum(x, eps)`."
    if operand.zero and not _is_large(operand):
        said = _slope_of(birth)
        return said or "a negative power of 0 is infinite: add an epsilon to the base."
    return _overflow(birth)


def _slope_of(birth: Birth) -> str | None:
    """What makes an infinite slope, judged by what made the denominator and by the words of the source.

    A derivative divides by sqrt(x) or by x: its equations say "div", and only these two tell which it is.
    """
    source = birth.place.source
    if any(maker in ("rsqrt", "sqrt") for maker in birth.makers) or any(
        word in source for word in ("sqrt", "norm", "std", "hypot")
    ):
        return _ADAM if _OPTAX in str(birth.inside) else _SQRT_SLOPE
    if any(word in source for word in ("arccos", "arcsin", "acos", "asin")):
        return "the slope is infinite at the ends -1 and 1: clip, `jnp.clip(x, -1 + eps, 1 - eps)`."
    if any(word in source for word in ("eigh", "svd")):
        return "equal eigenvalues or singular values have no differentiable vectors: separate them."
    return _LOG if "log" in source else None


def _division(birth: Birth, phase: str) -> str:
    denominator = birth.operands[-1]
    if denominator.inf:  # inf / inf: most often a softmax whose exponentials have overflowed
        return _EXP
    if not denominator.zero:
        return _overflow(birth)
    if phase != "forward":
        return _slope_of(birth) or "the slope divides by 0: keep the denominator away from 0."
    if denominator.dtype.startswith(("int", "uint")):
        return "division by 0: an integer wrapped around to 0 or counts nothing; count in floats, and bound it."
    return (
        "division by 0: add an epsilon, or replace the denominator before it is used, "
        "`x / jnp.where(ok, y, 1.0)`; a norm by `jnp.maximum(norm, eps)`."
    )


def _arithmetic(birth: Birth) -> str | None:
    operands = birth.operands
    infinite = any(operand.inf for operand in operands)
    if birth.has_nan and infinite and birth.operation in ("sub", "add", "add_any", "reduce_sum"):
        return (
            "inf - inf: a row of -inf only (fully masked), or two overflows, meet. Mask with a large "
            "finite number, or replace such rows before the difference."
        )
    if birth.has_nan and infinite:
        return "0 * inf: bound the infinite factor, or select with jnp.where instead of multiplying by a mask."
    if birth.has_nan:
        return None
    return _overflow(birth)


def _is_large(operand: Operand) -> bool:
    """Whether its fifth power overflows: then the size of the numbers is to blame, and no zero among them."""
    if operand.min is None or operand.max is None:
        return False
    return max(-operand.min, operand.max) > _LARGEST.get(operand.dtype, 1.0) ** 0.2


def _overflow(birth: Birth) -> str:
    dtype = next((o.dtype for o in birth.operands if o.dtype in _LARGEST), "float32")
    wider = {
        "float16": ", or compute in float32 or bfloat16",
        "bfloat16": ", or compute in float32",
    }
    return (
        f"{dtype} overflows at {_LARGEST[dtype]:.2g}: keep the numbers smaller (a smaller step, "
        f"normalisation, logarithms){wider.get(dtype, '')}."
    )
