"""A seed counts once in a mean, however many directories bring it; the page, the line and the exit code say the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.run.report.several.test_comparison_page import made
from toolkit.run.report import groups, story

CLAIM = "claims: {error: {at_most: 1.0, seeds: 3}}\n"


@pytest.fixture
def two(toolkit, work):
    """Two runs of two seeds, and what a report says of them."""
    with (work / "toy.yaml").open("a") as file:
        file.write(CLAIM)
    for seed in (0, 1):
        made(f"d/s{seed}", f"seed={seed}", error=0.1 + 0.1 * seed)

    def told(*paths):
        code, out, err = toolkit("report", *paths, "--out", "page.html")
        text = re.sub(r"<[^>]+>", " ", Path("page.html").read_text())
        results = " ".join(
            text.partition("at the end of the page.")[2].partition("Training")[0].split()
        )
        return code, results, [line for line in out if line.startswith("claim")], err

    return told


def copied():
    shutil.copytree("d/s1", "d/copy")
    return ["d/copy"], "repeats seed 1 in d/s1"


def linked():
    Path("d/link").symlink_to("s1")
    return ["d/link"], "the same directory as d/s1"


def spelled_otherwise():
    return [str(Path("d/s1").absolute())], "the same directory as d/s1"


def made_again():
    made("d/again", "seed=1", error=0.2)
    return ["d/again"], "repeats seed 1 in d/s1"


def made_again_with_other_numbers():
    made("d/again", "seed=1", error=0.7)
    return ["d/again"], "repeats seed 1 in d/s1 with other numbers"


def a_copy_with_another_seed_written_into_it():
    shutil.copytree("d/s1", "d/copy")
    path = Path("d/copy/config.yaml")
    record = json.loads(Path("d/copy/run.json").read_text())
    record["config_sha256"] = "of what it was"
    Path("d/copy/run.json").write_text(json.dumps(record))
    path.write_text(path.read_text().replace("seed: 1", "seed: 2"))
    return ["d/copy"], "changed since the run"


def unfinished():
    made("d/again", "seed=1", fail=True)
    return ["d/again"], "repeats seed 1 in d/s1"


WAYS = [
    copied, linked, spelled_otherwise, made_again, made_again_with_other_numbers,
    a_copy_with_another_seed_written_into_it, unfinished,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_seed_that_comes_twice_counts_once_and_is_named(two, way):
    alone = two("d/s0", "d/s1")
    more, reason = way()
    # Of two runs of a seed with other numbers, the one that is named first counts.
    turned = [] if "other numbers" in reason else [[*more, "d/s0", "d/s1"]]
    for order in (["d/s0", "d/s1", *more], *turned):
        code, results, line, err = two(*order)
        assert (code, results, line) == alone[:3]
        assert "over 2 runs" in line[0] and "inconclusive (2 runs)" in results
        assert len(err) == 1 and ("not counted" in err[0] or "changed since" in err[0])
        page = Path("page.html").read_text()
        assert "not counted" in page
        if order[0] == "d/s0":
            assert reason in err[0] and reason in page


def test_a_run_of_several_seeds_counts_for_those_that_no_other_has(work):
    one = made("d/one", "seed=1")
    pair = made("d/pair", "seed=0", "seeds=2")
    later = made("d/later", "seed=1", "seeds=3")
    counted = groups.each_seed_once([one, pair, later])
    assert [each.counted for each in counted] == [(1,), (0,), (2, 3)]
    assert counted[2].left_out == "repeats seed 1 in d/one"
    assert "a part of its seeds is not counted" in groups.not_counted(counted[2])[0]
    _, (group,) = groups.grouped(counted)
    assert group.n == 4
    assert groups.values({f"error[{s}]": float(s) for s in (1, 2, 3)}, "error", counted[2]) == [
        2,
        3,
    ]


def test_a_finished_run_counts_before_one_that_is_not(work):
    failed, done = made("d/failed", "seed=0", fail=True), made("d/done", "seed=0")
    assert [each.counted for each in groups.each_seed_once([failed, done])] == [(), (0,)]


def test_runs_of_other_code_are_another_group(work):
    first = made("d/first", "seed=0")
    path = Path("experiments/toy.py")
    path.write_text(path.read_text() + "# edited\n")
    second = made("d/second", "seed=0")
    counted = groups.each_seed_once([first, second])
    assert [each.counted for each in counted] == [(0,), (0,)]
    keys, found = groups.grouped(counted)
    assert keys == [groups.CODE] and [group.n for group in found] == [1, 1]


def test_a_text_and_a_number_are_two_settings(work):
    runs = [made("d/a", "label='1'"), made("d/b", "label='1.0'")]
    other = runs[1]._replace(config={**runs[1].config, "label": 1})
    assert len(groups.grouped(groups.each_seed_once([runs[0], other]))[1]) == 2


def test_a_run_that_nobody_runs_is_not_running(work):
    made("d/x", fail=True)
    path = Path("d/x/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running", "steps": 20}))
    assert story.read(Path("d/x")).status() == ("open", "stopped at step 4 of 20")
