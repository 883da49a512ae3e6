"""P1, unrolled."""

from benchmarks import problems, ways
from benchmarks.contest import Entry, Suite
from toolkit import adjoint


def _entry(way, *settings, against="hand"):
    def build():
        p = problems.penalties()
        return way(p, *settings), (p.theta,)

    return Entry(build, against)


SUITE = Suite(
    "P1 unrolled: a penalty for each of 64 features",
    "Logistic regression on 1,000 digits (640 weights), 100 full-batch steps of momentum 0.9, gradient of the loss "
    "on 500 others in 64 log-penalties, through every step.",
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
