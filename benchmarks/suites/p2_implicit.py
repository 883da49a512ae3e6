"""P2, implicit."""

from benchmarks import problems, ways
from benchmarks.contest import Entry, Suite
from toolkit import adjoint, linear


def _entry(way, *settings, against="hand"):
    def build():
        p = problems.cleaning(0.1)
        return way(p, *settings), (p.theta,)

    return Entry(build, against)


SUITE = Suite(
    "P2 implicit: a weight for each of 1,000 digits",
    "An MLP 64-128-10 on 1,000 digits with 40 % wrong labels, 100 full-batch steps of momentum 0.9, gradient of the "
    "loss on 500 others in 1,000 weights, by the implicit function theorem and 20 steps of conjugate gradients.",
    {
        "hand": _entry(ways.implicit_by_hand),
        "limit": _entry(ways.implicit_limit),
        "toolkit Implicit(CG(20))": _entry(ways.ours, adjoint.Implicit(linear.CG(20, 0.0))),
        "toolkit Implicit(CG(20)) / limit": _entry(
            ways.ours, adjoint.Implicit(linear.CG(20, 0.0)), against="limit"
        ),
        "jaxopt": _entry(ways.jaxopt, True),
    },
    exact="hand",
)
