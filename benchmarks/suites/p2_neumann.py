"""P2, implicit, by the Neumann series."""

from benchmarks import lineups, problems

SUITE = lineups.neumann(
    "P2 Neumann: a weight for each of 1,000 digits",
    "An MLP 64-128-10 on 1,000 digits with 40 % wrong labels, 100 full-batch steps of momentum 0.9, gradient of "
    "the loss on 500 others in 1,000 weights",
    lambda: problems.cleaning(l2=0.1),
)
