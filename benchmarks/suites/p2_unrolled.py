"""P2, unrolled."""

from benchmarks import in_torch, lineups, problems

SUITE = lineups.unrolled(
    "P2 unrolled: a weight for each of 1,000 digits",
    "An MLP 64-128-10 on 1,000 digits with 40 % wrong labels, 100 full-batch steps of momentum 0.9, gradient of "
    "the loss on 500 others in 1,000 weights",
    problems.cleaning,
    in_torch.entries("problems.cleaning"),
)
