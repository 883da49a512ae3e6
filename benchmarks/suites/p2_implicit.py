"""P2, implicit."""

from functools import partial

from benchmarks import in_torch, lineups, problems

SUITE = lineups.implicit(
    "P2 implicit: a weight for each of 1,000 digits",
    "An MLP 64-128-10 on 1,000 digits with 40 % wrong labels, 100 full-batch steps of momentum 0.9, gradient of "
    "the loss on 500 others in 1,000 weights",
    partial(problems.cleaning, l2=0.1),
    in_torch.entries("problems.cleaning", l2=0.1),
)
