"""P2, unrolled."""

from benchmarks import problems, ways
from benchmarks.contest import Entry, Suite
from toolkit import adjoint


def _entry(way, *settings, against="hand"):
    def build():
        p = problems.cleaning()
        return way(p, *settings), (p.theta,)

    return Entry(build, against)


SUITE = Suite(
    "P2 unrolled: a weight for each of 1,000 digits",
    "An MLP 64-128-10 on 1,000 digits with 40 % wrong labels, 100 full-batch steps of momentum 0.9, gradient of the "
    "loss on 500 others in 1,000 weights, through every step.",
    {
        "hand": _entry(ways.unrolled_by_hand),
        "limit": _entry(ways.unrolled_limit),
        "toolkit Unroll()": _entry(ways.ours, adjoint.Unroll()),
        "toolkit Unroll() / limit": _entry(ways.ours, adjoint.Unroll(), against="limit"),
        'toolkit Unroll("sqrt")': _entry(ways.ours, adjoint.Unroll(checkpoint="sqrt")),
        "hand, solve alone": _entry(ways.forward_solve),
        "jaxopt": _entry(ways.jaxopt, False),
        "optimistix": _entry(ways.optimistix),
    },
    exact="hand",
)
