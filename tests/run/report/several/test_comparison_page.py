"""The page of several runs: groups over seeds, intervals, bands; names that attack it; what a browser makes of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.run.conftest import pretend
from tests.run.report.test_page import parsed
from toolkit.run.program.means import estimate, written
from toolkit.run.report import groups, story
from toolkit.run.report.drawing import bands

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "\"><script>alert(1)</script><b onload='x'>&"


def made(name, *words, error=1.0, rows=((2, 1.0), (4, 0.5)), fail=False):
    """A run with these settings, final error and losses by step, written without running."""
    pretend(("run", "toy.yaml", *words, "--out", name), {"error": error})
    path = Path(name)
    record = json.loads((path / "run.json").read_text())
    record |= {"status": "failed"} if fail else {"steps": 20, "seconds": 1.5}
    (path / "run.json").write_text(json.dumps(record))
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": v, "seconds": 0.1}) + "\n" for s, v in rows)
    )
    if fail:
        shutil.rmtree(path / "final")
    return story.read(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "–"),
        ([0.5], "0.5"),
        ([2.0, 2.0, 2.0], "2 ± 0"),
        ([1.0, 2.0, 3.0], "2.0 ± 2.5"),  # t(2) = 4.303, s = 1: 4.303 / sqrt(3)
        ([0.893, 0.901, 0.887, 0.895, 0.889], "0.8930 ± 0.0068"),  # t(4) = 2.776
        ([1000.0, 3000.0], "2000 ± 12706"),  # t(1) = 12.706
        ([1e-8, 3e-8], "2.0e-08 ± 1.3e-07"),
        ([-1e9, -3e9], "-2.0e+09 ± 1.3e+10"),
    ],
)
def test_intervals_by_students_t(values, expected):
    assert written(estimate(values)) == expected


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Coverage over 4,000 samples of 3 normal values: 0.95, with a standard error of 0.0034."""
    import numpy as np

    samples = np.random.default_rng(0).normal(size=(4000, 3))
    found = [estimate(list(map(float, row))) for row in samples]
    share = sum(abs(e.mean) <= e.half_width for e in found) / len(found)
    assert abs(share - 0.95) < 0.015


def test_groups_differ_in_nothing_but_the_seed(work):
    stories = [
        made(f"d/{kind}{seed}", f"seed={seed}", f"adjoint.kind={kind}")
        for kind in ("implicit", "unroll")
        for seed in (0, 1, 2)
    ]
    keys, found = groups.grouped(stories)
    # `adjoint.damping` is there with one kind only, always at its default: it says nothing more.
    assert keys == ["adjoint.kind"]
    assert [group.label for group in found] == ["adjoint.kind=implicit", "adjoint.kind=unroll"]
    assert [len(group.stories) for group in found] == [3, 3]
    other = made("d/other", "adjoint.kind=implicit", "adjoint.damping=0.5")
    keys, found = groups.grouped([*stories, other])
    assert keys == ["adjoint.kind", "adjoint.damping"]
    assert [len(group.stories) for group in found] == [3, 3, 1]


def test_a_curve_has_mean_and_range_at_shared_steps(work):
    stories = [
        made("d/a", "seed=0", rows=[(2, 1.0), (4, 3.0), (6, 9.0)]),
        made("d/b", "seed=1", rows=[(2, 2.0), (4, 5.0)]),
        made("d/c", "seed=2", rows=[(2, 100.0)], fail=True),
    ]
    _, (group,) = groups.grouped(stories)
    found = bands.curve("loss", group)
    assert found == ([2, 4], [1.5, 4.0], [1.0, 3.0], [2.0, 5.0])
    assert bands.curve("nothing", group) is None


def test_groups_that_can_be_told_apart():
    looks = [bands.look(index) for index in range(bands.DRAWN)]
    assert len(set(looks)) == len(looks)


@pytest.fixture
def page(toolkit, work):
    """The page of a sweep of six finished runs and one that failed, with a hostile label and claims."""
    with (work / "toy.yaml").open("a") as file:
        file.write(f"label: {json.dumps(HOSTILE)}\nclaims: {{error: {{at_most: 1.5}}}}\n")
    names = []
    for rate, errors in ((0.1, (1.0, 1.2, 1.4)), (0.2, (1.0, 2.0, 3.0))):
        for seed, error in enumerate(errors):
            names.append(f"seed={seed},rate={rate}")
            rows = [(2, rate + seed / 10), (4, error)]
            made(f"d/{names[-1]}", f"seed={seed}", f"rate={rate}", error=error, rows=rows)
    names.append("seed=3,rate=0.2")
    made(f"d/{names[-1]}", "seed=3", "rate=0.2", fail=True)
    record = {
        "command": f"toolkit sweep {HOSTILE}",
        "runs": [{"name": name} for name in [*names, "seed=4,rate=0.2"]],
    }
    Path("d/sweep.json").write_text(json.dumps(record))
    code, out, _ = toolkit("report", "d")
    assert (code, out) == (0, ["d/report.html"])
    return Path("d/report.html")


def test_the_page_of_a_sweep(page):
    text = page.read_text()
    for words in (
        "7 runs of toy", "1 failed", "1 not started", "A toy: noisy descent", "<td>0.1</td>", "3 of 4", "1.20 ± 0.50", "2.0 ± 2.5",
        "at most 1.5", "met by 3 of 3", "met by 1 of 3", "seed=2 rate=0.2", "adjoint.damping", "failed at step 4 of",
    ):  # fmt: skip
        assert words in text, words
    assert "<th>width</th>" not in text  # all runs share it
    assert re.search(r'<svg.*id="f0-group-0-band"', text, re.DOTALL)
    assert re.search(r'id="f0-group-1-open-0"', text)


def test_the_page_refers_to_nothing_outside_and_escapes_names(page):
    text = page.read_text()
    tags = parsed(page)
    assert "://" not in text
    assert (
        tags.tags.count("script") == 1
    )  # ours; its hash is in the policy, so that no other could run
    assert not {"link", "iframe", "object", "b"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    references = [value for name, value in tags.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "data:", "seed%3D")) for value in references)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert "&lt;script&gt;alert(1)" in text


def test_several_runs_and_sweeps_on_one_page(toolkit, page):
    made("single", "rate=0.7", "label=x")
    code, out, _ = toolkit("report", "single", "d", "single")
    assert (code, out) == (0, ["comparison.html"])
    assert "8 runs of toy" in Path("comparison.html").read_text()
    assert "<td>0.7</td>" in Path("comparison.html").read_text()
    assert toolkit("report", "d", "--out", "elsewhere.html")[1] == ["elsewhere.html"]
    code, _, err = toolkit("report", "d", "nowhere")
    assert code == 2 and "nowhere: not a run directory" in err[0]


def test_a_damaged_run_does_not_hide_the_others(toolkit, page):
    Path("d/seed=1,rate=0.1/run.json").write_text("{")
    code, _, err = toolkit("report", "d")
    assert code == 0
    assert (
        len([line for line in err if "left out: d/seed=1,rate=0.1/run.json: damaged" in line]) == 1
    )
    assert "6 runs of toy" in page.read_text()


def test_runs_of_other_code_are_told(toolkit, page):
    path = Path("d/seed=1,rate=0.1/run.json")
    record = json.loads(path.read_text())
    record["environment"]["toolkit_sha256"] = "abc"
    path.write_text(json.dumps(record))
    assert "Environments differ" not in page.read_text()
    toolkit("report", "d")
    assert "Environments differ" in page.read_text()
    assert "abc (1)" in page.read_text()


def browse(page, script, folder):
    """The DOM after the page's own script and then this one. Only here, the policy is taken out."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    tested = folder / "tested.html"
    tested.write_text(text.replace("</main>", f"</main><script>{{{script}}}</script>"))
    return dump(tested, folder)


def dump(page, folder):
    words = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom "
    words += "--disable-background-networking --disable-component-update --disable-sync"
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *words.split(), profile, page.absolute().as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_sorts_filters_and_hides(page, tmp_path):
    allowed = dump(page, tmp_path)
    assert 'data-needs-script=""><input id="filter"' in allowed.replace(
        'hidden="" ', "HIDDEN "
    )  # our script ran
    assert "alert(1)" in allowed and allowed.count("<script>") == 1
    script = """
      const heads = [...document.querySelectorAll("#runs thead th")];
      const error = heads.find((head) => head.textContent.trim() === "error");
      error.querySelector("button").click(); error.querySelector("button").click();
      const box = document.querySelector("#filter"); box.value = "rate=0.2 SEED"; box.dispatchEvent(new Event("input"));
      const group = document.querySelector("input[data-group='0']"); group.click();
      const rows = [...document.querySelectorAll("#runs tbody tr")].filter((row) => !row.hidden);
      const result = document.createElement("pre"); result.id = "result";
      result.textContent = JSON.stringify({
        order: rows.map((row) => row.dataset.text.split(" ")[0]),
        shown: document.querySelector("#shown").textContent,
        sort: error.getAttribute("aria-sort"),
        hidden: document.querySelector("#f0-group-0-mean").style.display,
        kept: document.querySelector("#f0-group-1-mean").style.display,
        wide: document.documentElement.scrollWidth <= window.innerWidth,
      });
      document.body.append(result);
    """
    found = re.search(r'<pre id="result">(.*?)</pre>', browse(page, script, tmp_path))[1]
    assert json.loads(found) == {
        "order": [
            f"seed={seed},rate=0.2" for seed in (2, 1, 0, 3)
        ],  # descending; without a value, last
        "shown": "4 of 7 runs",
        "sort": "descending",
        "hidden": "none",
        "kept": "",
        "wide": True,
    }
