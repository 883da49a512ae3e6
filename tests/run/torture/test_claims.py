"""Claims: within, missed or inconclusive, against Student's interval worked out by hand."""

from __future__ import annotations

import random

import pytest

from tests.run.torture import kit
from toolkit.run.experiment.common import Claim
from toolkit.run.program.means import estimate
from toolkit.run.report import claims

FIVE = [
    0.30,
    0.32,
    0.28,
    0.31,
    0.29,
]  # mean 0.3, standard deviation 0.0158114, t(4, 97.5 %) = 2.776445


def outcome(claim, values):
    (verdict,) = claims.judge_runs({"m": claim}, [{"m": value} for value in values])
    return verdict


def test_the_interval_is_students():
    low, high = estimate(FIVE).interval
    assert (low, high) == pytest.approx((0.3 - 0.0196324, 0.3 + 0.0196324), rel=1e-5)


@pytest.mark.parametrize(
    ("bounds", "values", "expected"),
    [
        ({"at_most": 0.33}, FIVE, "within"),
        ({"at_most": 0.31}, FIVE, "inconclusive"),  # the mean is below, its interval across
        ({"at_most": 0.29}, FIVE, "inconclusive"),
        ({"at_most": 0.27}, FIVE, "missed"),
        ({"at_least": 0.33}, FIVE, "missed"),
        ({"value": 0.3, "tolerance": 0.02}, FIVE, "within"),
        ({"value": 0.3, "tolerance": 0.019}, FIVE, "inconclusive"),
        ({"value": 0.4, "tolerance": 0.05}, FIVE, "missed"),
        ({"value": 0.3, "tolerance": 0.02}, FIVE[:4], "inconclusive"),  # too few
        ({"at_most": 1.0}, [0.5], "inconclusive"),
        ({"value": 0.5, "tolerance": 0.0}, [0.5] * 5, "within"),
        ({"at_most": 0.33}, [*FIVE, None], "missed"),  # a run without the metric
    ],
)
def test_verdicts_over_five_seeds(bounds, values, expected):
    verdict = outcome(Claim(**bounds, seeds=5), values)
    assert (verdict.outcome, verdict.holds) == (expected, expected != "missed")


def test_a_claim_on_one_run_is_missed_if_one_run_misses_it():
    assert outcome(Claim(at_most=0.33), FIVE).outcome == "within"
    assert outcome(Claim(at_most=0.315), FIVE).outcome == "missed"


def test_the_interval_covers_as_often_as_it_says():
    draw, covered = random.Random(0), 0
    for _ in range(2000):
        low, high = estimate([draw.gauss(1.0, 2.0) for _ in range(4)]).interval
        covered += low <= 1.0 <= high
    assert 0.937 < covered / 2000 < 0.963  # 95 % +- 2.7 standard errors


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("{}", "claims.w0: bad value"),
        ("{value: 1}", "`value` and `tolerance` together"),
        ("{value: 1, tolerance: -1}", "claims.w0.tolerance: wrong value"),
        ("{at_most: 1, seeds: 0}", "claims.w0.seeds: wrong value"),
        ("{at_mst: 1}", "did you mean `at_most`?"),
    ],
)
def test_bad_claims_are_named(toolkit, work, claim, words):
    with open(work / "stream.yaml", "a") as file:
        file.write(f"claims: {{w0: {claim}}}\n")
    code, _, err = toolkit("run", "stream.yaml", "--out", "x")
    assert code == 2
    assert any("stream.yaml:5" in line and words in line for line in err), err


@pytest.mark.parametrize(
    ("bounds", "code", "word"),
    [
        ("at_most: -100", 8, "missed"),
        kit.full(("at_most: 100", 0, "within")),
        kit.full(("at_most: 100, seeds: 4", 0, "inconclusive")),
    ],
)  # fmt: skip
def test_runs_over_seeds_are_judged_by_the_report(toolkit, quick, work, bounds, code, word):
    several = bounds if "seeds" in bounds else f"{bounds}, seeds: 3"
    with open(work / "stream.yaml", "a") as file:
        file.write(f"claims: {{w0: {{{several}}}}}\n")
    for seed in range(3):
        words = ("steps=4", "checkpoint_every=4", f"seed={seed}", "--out", f"s{seed}")
        found, _, err = toolkit("run", "stream.yaml", *words)
        assert (found, err) == (0, [])  # one run alone decides nothing
    found, out, err = toolkit("report", "s0", "s1", "s2", "--out", "page.html")
    assert found == code
    (line,) = [line for line in out if line.startswith("claim w0")]
    assert f"w0: {word}, " in line and "over 3 runs, claimed at most" in line
    assert len(err) == (code == 8)
