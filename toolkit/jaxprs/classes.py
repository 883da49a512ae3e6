"""The classes that traced programs are made of.

JAX documents them in `jax.extend.core`, which promises no stability. The rest of the package imports them
from here, so that only this file changes when a release moves or renames one.
"""

from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal, Var

__all__ = [
    "ClosedJaxpr",  # until jax 0.10 a program with its constants; since 0.12 another name of `Jaxpr`
    "DropVar",  # a result that nothing reads
    "Jaxpr",  # a program: equations between variables
    "Literal",  # a number that is written into an equation
    "Var",  # a variable
]
