"""The page: complete, self-contained, escaped; drawn again from the files alone."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.run.conftest import CONFIG, EXPERIMENT
from tests.run.small_experiments import ON_DATA, lay_out
from toolkit.run.report import page

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that elements nest."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(path):
    tags = Tags()
    tags.feed(Path(path).read_text())
    assert not tags.open
    return tags


@pytest.fixture
def run(toolkit, work):
    (work / "toy.yaml").write_text(
        CONFIG
        + "label: '<b onload=x>'\nbroken: true\nclaims: {error: {at_most: 1e-9}, count: {at_least: 5}}\n"
    )
    toolkit("run", "toy.yaml")
    return Path("runs/toy-1")


def test_the_page_is_self_contained_and_escaped(run):
    text = (run / "report.html").read_text()
    tags = parsed(run / "report.html")
    assert "http" not in text
    assert not {"script", "link", "iframe", "object", "img", "b onload"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    references = [value for name, value in tags.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in references)
    ids = [value for name, value in tags.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in references if value.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)


def test_the_page_tells_the_run(run):
    text = (run / "report.html").read_text()
    for words in (
        "A toy: noisy descent", "1 of 2 claims missed", "toolkit run toy.yaml", "&lt;b onload=x&gt;",
        "&lt;script&gt;alert(1)", "not drawn: ValueError: no &lt;b&gt;data", "adjoint.damping", "experiment_sha256",
    ):  # fmt: skip
        assert words in text
    assert text.count("<svg") == 3  # one figure of two, two curves


def test_of_hundreds_of_results_the_first_are_shown():
    parts = [f"<p>{k}</p>" for k in range(30)]
    shown, _, folded = page._section_of("Results", "tiles", parts, 24).partition("<details>")
    assert "<p>23</p>" in shown and "<p>24</p>" not in shown
    assert "6 more" in folded and "<p>24</p>" in folded and "<p>29</p>" in folded
    assert "<details>" not in page._section_of("Results", "tiles", parts[:24], 24)


def test_the_card_tells_the_run(run):
    card = (run / "README.md").read_text()
    assert "toolkit run toy.yaml" in card
    assert re.search(r"\| error \| .* \| at most 1e-09 \| \*\*missed\*\* \|", card)
    assert "| count | 20 | at least 5 | met |" in card


def test_reports_are_drawn_again(toolkit, run):
    text = (run / "report.html").read_text()
    (run / "report.html").unlink()
    code, out, _ = toolkit("report", run)
    assert (code, out) == (0, [str(run / "report.html")])
    assert (run / "report.html").read_text() == text
    assert toolkit("report", run, "--out", "copy.html")[0] == 0
    assert Path("copy.html").read_text() == text


def test_a_report_survives_its_experiment(toolkit, run, work):
    (work / "experiments/toy.py").write_text(EXPERIMENT.replace("def figures", "def other"))
    assert toolkit("report", run)[0] == 0
    (work / "experiments/toy.py").unlink()
    code, _, err = toolkit("report", run)
    assert code == 0
    assert err[0].startswith("warning: runs/toy-1/config.yaml: experiment: not found")


@pytest.fixture
def on_data(work):
    lay_out(work, "on_data", ON_DATA)
    (work / "points.txt").write_text("1.5 2.5")
    return work


def test_the_card_tells_what_a_reader_needs(toolkit, on_data):
    assert toolkit("run", "on_data.yaml", "label=a|b", "--out", "x")[0] == 0

    card = (on_data / "x/README.md").read_text()
    for words in (
        "toolkit run on_data.yaml", "## Results", "| w |", "## Hyperparameters",
        '| label | "a\\|b" |', "| steps | 20 |", "## Data", "- points: x float", "; sha256 ",
        "## Environment", "- python 3.",
    ):  # fmt: skip
        assert words in card, words
    assert "## Pitfalls" not in card


def test_other_data_is_drift(toolkit, on_data):
    assert toolkit("run", "on_data.yaml", "nan_at=12", "--out", "x")[0] == 6
    (on_data / "points.txt").write_text("1.5 2.25")

    code, _, err = toolkit("resume", "x")
    assert (code, "differs in data/points, read/points.txt, got" in err[0]) == (7, True)


def test_the_card_of_a_failed_run_tells_why(toolkit, work):
    assert toolkit("run", "toy.yaml", "nan_at=12", "--out", "x")[0] == 6
    assert toolkit("report", "x")[0] == 0

    card = (work / "x/README.md").read_text()
    assert "Status: **failed at step 12 of 20**" in card
    assert "## Pitfalls met" in card
    reason = "step 12, first non-finite value in constant at experiments/toy.py:"
    assert reason in card
    assert reason in (work / "x/report.html").read_text()
    parsed("x/report.html")


def test_a_long_name_is_broken_behind_its_slash():
    assert "accuracy/<wbr>threshold=0.05<" in page._tile("accuracy/threshold=0.05", 0.5, None)
    assert "<b" not in page._tile("<b>/x", 0.5, None)
