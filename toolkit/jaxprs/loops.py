"""Loops, branches, linear solves and maps over devices by their parts, whatever the JAX release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")


class ScanParts(NamedTuple):
    """What a `scan` equation consists of. Its operands are constants, carry and inputs, in this order."""

    body: Any  # the program (constants, carry, input of a step) -> (carry, output of a step)
    length: int
    constants: int  # how many operands are constants
    carried: int  # and how many the carry has
    reverse: bool  # whether it runs from the last input to the first
    unroll: Any  # as `jax.lax.scan` takes it

    def parted(self, operands: Sequence[_T]) -> tuple[Sequence[_T], Sequence[_T], Sequence[_T]]:
        """Values, one for each operand, split into those of the constants, the carry and the inputs."""
        return _in_three(operands, self.constants, self.carried)


class WhileParts(NamedTuple):
    """What a `while` equation consists of. Its operands are two sets of constants, and the carry."""

    condition: Any  # the program (constants of the condition, carry) -> whether to go on
    body: Any  # the program (constants of the body, carry) -> carry
    condition_constants: int  # how many operands are constants of the condition
    body_constants: int  # and of the body

    def parted(self, operands: Sequence[_T]) -> tuple[Sequence[_T], Sequence[_T], Sequence[_T]]:
        """Values, one for each operand, split into the condition's constants, the body's, and the carry."""
        return _in_three(operands, self.condition_constants, self.body_constants)


class ShardParts(NamedTuple):
    """What a `shard_map` equation consists of."""

    body: Any  # the program of one device
    mesh: Any
    in_specs: tuple[Any, ...]
    axes: frozenset[str]  # of the mesh, over which the program is spread
    check_vma: bool  # as `jax.shard_map` takes it


class SolveParts(NamedTuple):
    """What a `custom_linear_solve` consists of. Its operands: the constants, then the right-hand side."""

    product: Any  # the program (its constants, x) -> A x
    solve: Any  # the program (its constants, b) -> (x, what else the solver returns)
    product_constants: int  # how many operands are constants of the product; they come first
    solve_start: int  # where the constants of `solve` begin
    solve_constants: int  # how many they are
    constants: int  # how many operands come before the right-hand side

    def of_solve(self, operands: Sequence[_T]) -> list[_T]:
        """Of values, one for each operand, those of `solve`: its constants and the right-hand side."""
        own = operands[self.solve_start : self.solve_start + self.solve_constants]
        return [*own, *operands[self.constants :]]


def scan_parts(equation: Any) -> ScanParts:
    """The parts of a `scan`."""
    params = equation.params
    if "num_carry" in params:  # until jax 0.10.1
        constants, carried = params["num_consts"], params["num_carry"]
    else:  # since jax 0.12, where a tree of the operands takes the place of the counts
        constants, carried = (len(list(part)) for part in params["ft_in"].unpack()[:2])
    how = (params["reverse"], params["unroll"])
    return ScanParts(params["jaxpr"], params["length"], constants, carried, *how)


def while_parts(equation: Any) -> WhileParts:
    """The parts of a `while`."""
    params = equation.params
    programs = (params["cond_jaxpr"], params["body_jaxpr"])
    return WhileParts(*programs, params["cond_nconsts"], params["body_nconsts"])


def branches(equation: Any) -> Sequence[Any]:
    """The programs of a `cond`. Its first operand is the number of the one to run, the others go to it."""
    return equation.params["branches"]


def shard_parts(equation: Any) -> ShardParts:
    """The parts of a `shard_map`."""
    params = equation.params
    # The second name is that of jax 0.10, the first that of jax 0.12.
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    how = (params["mesh"], tuple(params["in_specs"]), frozenset(axes), params["check_vma"])
    return ShardParts(params["jaxpr"], *how)


def solve_parts(equation: Any) -> SolveParts:
    """The parts of a `custom_linear_solve`."""
    programs, counts = equation.params["jaxprs"], equation.params["const_lengths"]
    # The operands begin with the constants of A x, of A' x, of the solve and of the transposed solve.
    start = counts.matvec + counts.vecmat
    return SolveParts(
        programs.matvec, programs.solve, counts.matvec, start, counts.solve, sum(counts)
    )


def _in_three(
    values: Sequence[_T], first: int, second: int
) -> tuple[Sequence[_T], Sequence[_T], Sequence[_T]]:
    return values[:first], values[first : first + second], values[first + second :]
