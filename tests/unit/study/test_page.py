"""Pages about studies and runs: what they say, that nothing in them is taken for HTML, and how a real browser finds them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import soma
from soma.runs import list_runs

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).parent))

from browser import CHROMIUM, browsing
from study_boards import NASTY, database, fill_fonts

from soma.study.finding import find, opened
from soma.study.html import facts, page, sortable
from soma.study.page import report, run_report


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    fill_fonts()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = tmp_path_factory.mktemp("page")
    with opened(find(str(database(where)))) as it:
        (where / "report.html").write_text(report(it), encoding="utf-8")
    yield where / "report.html"


class Reader(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


class TestStudy:
    def test_what_it_says(self, written: Path) -> None:
        read = Reader(written.read_text())
        text = "\n".join(read.said)
        for word in ("tune", "29", "completed", "1", "failed", "The best: trial", "1 that failed", "trials a minute", NASTY):
            assert word in text
        pictures = [attrs["alt"] for tag, attrs in read.tags if tag == "img"]
        assert pictures == [f"{name} of study tune" for name in ("history", "importances", "slices", "parallel coordinates", "timeline")]
        assert "Not drawn: learning curves" in text
        assert sum(tag == "tr" for tag, _ in read.tags) > 30

    def test_nothing_of_a_study_is_taken_for_html(self, written: Path) -> None:
        text = written.read_text()
        assert NASTY not in text and text.count("<script>") == 1
        assert [tag for tag, _ in Reader(text).tags].count("script") == 1

    def test_it_needs_no_other_file(self, written: Path) -> None:
        for tag, attrs in Reader(written.read_text()).tags:
            assert all((attrs.get(name) or "data:").startswith("data:") for name in ("src", "href")), (tag, attrs)
        assert not re.search(r"url\(|@import", written.read_text())

    def test_a_front_and_a_study_without_trials(self, tmp_path: Path) -> None:
        for n, said in ((4, "The Pareto front: 1 trials"), (0, "No trial has completed")):
            where = tmp_path / str(n)
            where.mkdir()
            with opened(find(str(database(where, n=n, names=("a", "b"))))) as it:
                assert said in report(it)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_in_a_real_browser(written: Path) -> None:
    values = "[...document.getElementById('trials').tBodies[0].rows].map(row => row.cells[%d].dataset.v)"
    click = "document.querySelectorAll('#trials th button')[%d].click()"
    with browsing() as tab:
        tab.open(written)
        assert tab.run("document.title") == "tune · study"
        assert tab.run("[...document.images].every(image => image.complete && image.naturalWidth > 300)")
        numbers = [int(v) for v in tab.run(values % 0)]
        assert numbers == list(range(30))
        tab.run(click % 2)  # the value
        up = tab.run(values % 2)
        assert [float(v) for v in up[:-1]] == sorted(float(v) for v in up[:-1]) and up[-1] == ""  # the one that failed has none
        tab.run(click % 2)
        down = tab.run(values % 2)
        assert down[:-1] == up[:-1][::-1] and down[-1] == ""
        assert tab.run("document.querySelectorAll('#trials th')[2].getAttribute('aria-sort')") == "descending"
        tab.run(click % 1)  # states are words
        assert tab.run(values % 1) == ["completed"] * 29 + ["failed"]
        tab.run("const f = document.querySelector('input.filter'); f.value = 'FAILED'; f.dispatchEvent(new Event('input'))")
        assert tab.run("[...document.getElementById('trials').tBodies[0].rows].filter(row => !row.hidden).length") == 1
        assert tab.run("document.title") == "tune · study"  # what wanted to change it was text
        assert tab.complaints == [] and [url for url in tab.requests if not url.startswith("data:")] == [written.as_uri()]
        tab.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))")
        assert tab.run("document.title") == "tune · study"  # no script but the page's own may run


class TestRun:
    def test_a_run_that_is_no_study(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_RUNS", str(tmp_path))

        @soma.filter
        class Learn:
            def fit(self, x: Any, y: Any = None) -> Any:
                for step in range(3):
                    soma.report("loss", 1 / (step + 1), step=step)
                if x < 0:
                    raise ValueError(NASTY)
                return {}

            def forward(self, x: Any, state: Any) -> Any:
                return x

        with soma.init(local=True), soma.Graph(Learn()) as g:
            g.fit(1, seed=7)
            with pytest.raises(ValueError, match="script"):
                g.fit(-1)
        pages = {run.status: run_report(run) for run in list_runs()}
        good, bad = pages["completed"], pages["failed"]
        assert 'alt="curves of the run"' in good and "fit, completed" in good and "learn" in good and "0.333333" in good
        assert "fit, failed" in bad and NASTY not in bad and "&lt;script&gt;" in bad


def test_what_is_empty_is_left_out_or_stands_last() -> None:
    assert facts({"a": None, "b": "", "c": 0}) == '<table class="facts"><tr><th>c</th><td>0</td></tr></table>'
    cells = re.findall(r'data-v="([^"]*)"', sortable("t", ["x"], [("", [v]) for v in (None, 1.5, 7, float("inf"), "<a>", True)]))
    assert cells == ["", "1.5", "7", "Infinity", "&lt;a&gt;", "True"]
    assert "<title>&lt;b&gt;</title>" in page("<b>", [])
