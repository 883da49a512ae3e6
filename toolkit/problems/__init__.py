"""How good is an answer? Problems with a known evaluation: tasks to draw, and what is known of their answers."""

from toolkit.problems import cleaning, few_shot, quadratic, regularisation
from toolkit.problems.instance import Instance

__all__ = ["Instance", "cleaning", "few_shot", "quadratic", "regularisation"]


def __dir__() -> list[str]:
    return sorted(__all__)
