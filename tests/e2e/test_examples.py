"""The examples, as a user runs them: a fresh process, real data, from the first line to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import soma

pytest.importorskip("sklearn")
ROOT = Path(soma.__file__).parents[1]
EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, where: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=100, cwd=where,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_example_is_tried() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "digits.py", "diabetes.py", "text.py", "convnet.py", "federated.py", "pipeline.py", "population.py", "study_svc.py",
        "study_mlp.py", "study_graph.py", "serve_digits.py", "serve_image.py", "serve_text.py"}


@pytest.mark.timeout(60)
def test_digits(tmp_path: Path) -> None:
    out = run("digits.py", tmp_path)
    fits = re.findall(r"^(first|second) fit: ([\d.]+) s, test accuracy ([\d.]+), processes started: (\d)$", out, re.M)
    assert [(f[0], f[3]) for f in fits] == [("first", "4"), ("second", "0")]
    assert fits[0][2] == fits[1][2] and float(fits[0][2]) >= 0.95
    assert float(fits[1][1]) < float(fits[0][1]) / 2
    assert out.count("output hit (disk)") == 4 and "from 88 columns" in out


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_diabetes(tmp_path: Path) -> None:
    out = run("diabetes.py", tmp_path)
    scores = dict(re.findall(r"^(head|ridge) +R² on patients never seen: ([\d.]+)$", out, re.M))
    assert float(scores["ridge"]) > 0.3 and float(scores["head"]) > 0.3
    assert "one process, one autograd graph" in out and "read back, the same predictions: True" in out


@pytest.mark.torch
@pytest.mark.timeout(60)
def test_convnet(tmp_path: Path) -> None:
    out = run("convnet.py", tmp_path)
    figures = re.findall(r"^(\d) rank\(s\): loss ([\d.]+), accuracy on digits never seen ([\d.]+), (\d+) steps", out, re.M)
    assert [f[0] for f in figures] == ["1", "2"] and figures[0][1:] == figures[1][1:]
    assert float(figures[0][2]) > 0.9 and figures[0][3] == "66"
    assert float(out.rpartition(": ")[2]) < 1e-5


@pytest.mark.timeout(120)
def test_text(tmp_path: Path) -> None:
    """A file larger than what each process may use; a process that used more would have been killed."""
    out = run("text.py", tmp_path, "--megabytes", "155", "--limit", "150")
    assert float(re.findall(r"^(\d+) MB of text", out, re.M)[0]) > 150
    used = [int(n) for n in re.findall(r"(?:hashing_vectorizer|sgd_classifier) (\d+) MB", out)]
    assert len(used) == 2 and max(used) < 150
    (grown,) = re.findall(r"this program \+(\d+) MB", out)
    assert int(grown) < 75
    (right,) = re.findall(r"right for ([\d.]+)% of", out)
    assert float(right) > 90


@pytest.mark.timeout(60)
def test_study_svc(tmp_path: Path) -> None:
    """In one process the trials of a seed are always the same; with two, which result is there first decides what is tried next."""
    pytest.importorskip("optuna")
    out = run("study_svc.py", tmp_path)
    found = dict(re.findall(r"^accuracy on other folds, (\S+) +([\d.]+)$", out, re.M))
    assert float(found["tuned"]) > float(found["SVC()"]) + 0.04 and float(found["tuned"]) > float(found["scaled"]) - 0.002
    tried = re.findall(r"^  (\w+) +tried +(\d+) times, with ([\w, ]+): [\d.]+ at best$", out, re.M)
    assert sum(int(n) for _, n, _ in tried) == 40
    assert [(kernel, names) for kernel, _, names in tried] == [("rbf", "C, gamma"), ("poly", "C, degree"), ("linear", "C")]


@pytest.mark.torch
@pytest.mark.timeout(90)
def test_study_mlp(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = run("study_mlp.py", tmp_path)
    ((trials, pruned, epochs, planned, saved),) = re.findall(
        r"^(\d+) trials in [\d.]+ s, (\d+) of them pruned: (\d+) epochs instead of (\d+), (\d+) saved$", out, re.M)
    each = re.findall(r"^  trial +\d+: (\w+) +after +(\d+) epochs", out, re.M)
    assert len(each) == int(trials) == 20 and sum(state == "pruned" for state, _ in each) == int(pruned) > 0
    assert sum(int(n) for _, n in each) == int(epochs) == int(planned) - int(saved) and int(planned) == 240
    assert float(re.findall(r"^trained again: ([\d.]+)", out, re.M)[0]) > 0.9


@pytest.mark.timeout(90)
def test_study_graph(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    out = run("study_graph.py", tmp_path)
    lines = re.findall(r"^  (\w+) +fitted +(\d+) times, taken from the cache +(\d+) times", out, re.M)
    times = {node: (int(fitted), int(found)) for node, fitted, found in lines}
    assert times["rbm"] == (1, 11) and sum(times["classify"]) == 12
    assert sum(times["pca"]) == int(re.findall(r"^with the edge pca -> join: (\d+) trials", out, re.M)[0])
    assert float(re.findall(r"^its graph, .*: ([\d.]+) on digits", out, re.M)[0]) > 0.9


@pytest.fixture
def needs_serve() -> None:
    for module in ("uvicorn", "httptools", "httpx", "prometheus_client"):
        pytest.importorskip(module)


@pytest.mark.timeout(60)
def test_serve_digits(tmp_path: Path, needs_serve: None) -> None:
    out = run("serve_digits.py", tmp_path)
    assert float(re.findall(r"^the graph: 450 digits at once, ([\d.]+) of them right", out, re.M)[0]) > 0.95
    assert float(re.findall(r"^the predictor: 100 digits one by one, ([\d.]+) of them right$", out, re.M)[0]) > 0.9
    assert "fitted in " in out and "seven pixels: 8 × 8 pixels are needed, and these are 7\n" in out and "\ntext: " in out


@pytest.mark.timeout(60)
def test_serve_image(tmp_path: Path, needs_serve: None) -> None:
    pytest.importorskip("PIL")
    out = run("serve_image.py", tmp_path)
    assert out.startswith("300 × 200 pixels; data:image/png;base64, ") and "metrics: 60000 pixels" in out
    assert "all of them near the disc's edge: True" in out and out.count("refused: ") == 2


@pytest.mark.timeout(60)
def test_serve_text(tmp_path: Path, needs_serve: None) -> None:
    """It streams: nine tenths of the time that the words take lie between the first and the last."""
    out = run("serve_text.py", tmp_path)
    ((words, first, last),) = re.findall(r"^(\d+) words; the first after ([\d.]+) s, the last after ([\d.]+) s$", out, re.M)
    assert int(words) == 40 and float(last) - float(first) > 0.9 * 0.39
    assert "the answer has 40 words, and counts 40" in out and "\nReturn the " in out
