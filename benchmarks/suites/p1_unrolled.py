"""P1, unrolled."""

from benchmarks import in_torch, lineups, problems

SUITE = lineups.unrolled(
    "P1 unrolled: a penalty for each of 64 features",
    "Logistic regression on 1,000 digits (640 weights), 100 full-batch steps of momentum 0.9, gradient of the "
    "loss on 500 others in 64 log-penalties",
    problems.penalties,
    in_torch.entries("problems.penalties"),
    problems.penalties_examples_last,
)
