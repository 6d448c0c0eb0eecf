"""What is pure of a job: its states, its request, its reports, its record."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.jobs.events import Began, Ended, JobEvent, Left, PhaseBegan, Reported, Said
from soma.jobs.news import News
from soma.jobs.outputs import matching
from soma.jobs.progress import LINE_BYTES, report, reported
from soma.jobs.record import Record
from soma.jobs.request import JobRequest, as_json
from soma.jobs.states import TRANSITIONS, JobState, JobStatus, Phase, after
from soma.jobs.workspace import Workspace

ENDS = [s.value for s in JobState if s.is_end]
COUNTS = st.none() | st.integers(0, 9)
EVENTS: st.SearchStrategy[list[JobEvent]] = st.lists(
    st.builds(PhaseBegan, st.sampled_from([p.value for p in Phase])) | st.builds(Said, st.binary(max_size=3))
    | st.builds(Reported, COUNTS, COUNTS, st.dictionaries(st.sampled_from("ab"), st.floats(allow_nan=False)))
    | st.builds(Left, st.integers(0, 3), st.none()) | st.builds(Ended, st.sampled_from(ENDS), st.text(max_size=3)), max_size=8)


@settings(max_examples=100)
@given(EVENTS)
def test_the_first_end_counts(events: list[JobEvent]) -> None:
    status, seen = JobStatus("j", "e"), [JobStatus("j", "e")]
    for now, event in enumerate([Began("n"), *events]):
        status = after(status, event, float(now))
        seen.append(status)
    for before, behind in itertools.pairwise(seen):
        assert behind.state is before.state or behind.state in TRANSITIONS[before.state]
        assert not before.state.is_end or behind == before
    first = next((e for e in events if isinstance(e, Ended)), None)
    assert status.state.value == (first.state if first else "RUNNING")
    told = list(itertools.takewhile(lambda e: not isinstance(e, Ended), events))
    reports = [e for e in told if isinstance(e, Reported)]
    assert status.progress.metrics == {k: v for r in reports for k, v in r.metrics.items()}
    assert status.progress.step == next((r.step for r in reversed(reports) if r.step is not None), None)
    phases = [e.name for e in told if isinstance(e, PhaseBegan)]
    assert status.progress.phase is Phase((["preparing", *phases])[-1])


@settings(max_examples=100)
@given(EVENTS)
def test_the_news_have_no_gaps_and_end_once(events: list[JobEvent]) -> None:
    news, status, told = News(every=2.0), JobStatus("j", "e"), []
    for now, event in enumerate([Began("n"), *events, Ended("FAILED", "why")]):
        before, status = status, after(status, event, float(now))
        told.append(news.of(before, status, float(now)))
    said = [t for t in told if t is not None]
    assert [t["seq"] for t in said] == list(range(len(said))) and {t["run_id"] for t in said} == {"j"}
    assert [t["kind"] for t in said] == ["JobProgress"] * (len(said) - 1) + ["JobEnded"]
    assert said[-1]["metrics"] == status.progress.metrics and said[-1]["state"] == status.state.value
    same_phase = [b["time"] - a["time"] for a, b in itertools.pairwise(said[:-1]) if a["phase"] == b["phase"]]
    assert all(gap >= 2.0 for gap in same_phase)


def test_a_job_that_never_began_cannot_succeed() -> None:
    for end in ("FAILED", "CANCELLED"):
        assert after(JobStatus("j", "e"), Ended(end, "why"), 2.0) == JobStatus("j", "e", JobState(end), message="why", ended=2.0)
    with pytest.raises(ValueError, match="PENDING cannot become SUCCEEDED"):
        after(JobStatus("j", "e"), Ended("SUCCEEDED"), 2.0)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"id": "../x"}, "job_id"), ({"id": ""}, "job_id"), ({"id": ".x"}, "job_id"), ({"id": "a/b"}, "job_id"), ({"id": "a" * 65}, "job_id"),
    ({"entry": "/etc/x.py"}, "entry"), ({"entry": "../x.py"}, "entry: .*leaves"), ({"entry": ""}, "entry"),
    ({"outputs": ("../*.json",)}, "outputs: .*leaves"), ({"outputs": ("/etc/*",)}, "outputs"), ({"outputs": ("a/../../b",)}, "outputs"),
    ({"outputs": "*.json"}, "outputs"), ({"args": ("a", 3)}, "args"), ({"args": ("a\0",)}, "args"),
    ({"requirements": ("--pre",)}, "option"), ({"python": "2.7"}, "python="), ({"timeout": 0}, "timeout"),
    ({"timeout": math.nan}, "timeout"),
    ({"disk_quota": -1}, "disk_quota"), ({"env_vars": {"A": 1}}, "env_vars"), ({"env_vars": {"SOMA_JOB_ID": "x"}}, "SOMA_JOB_ID"),
]


def test_a_wrong_request_is_refused_by_its_key() -> None:
    for wrong, words in WRONG:
        with pytest.raises((TypeError, ValueError), match=words):
            JobRequest(**{"id": "j", "entry": "e.py", **wrong})
    for params in ({"a": object()}, ["a"], {"a": "x" * 2**20}):
        with pytest.raises((TypeError, ValueError), match="params"):
            as_json(params)  # type: ignore[arg-type]


def test_an_environment_of_its_own_is_only_made_when_asked_for() -> None:
    assert JobRequest(id="j", entry="e.py").own_environment is None
    assert (spec := JobRequest(id="j", entry="e.py", requirements=()).own_environment) is not None and spec.requirements == ()
    assert (spec := JobRequest(id="j", entry="e.py", python="3.9").own_environment) is not None and spec.python == "3.9"


def test_reports_are_checked_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOMA_JOB_PROGRESS", raising=False)
    report(1, 2, loss=0.5)  # outside of a job: nobody to tell
    for wrong in ({"step": -1}, {"step": 1.5}, {"total": True}):
        with pytest.raises(ValueError, match="a whole number"):
            report(**wrong)  # type: ignore[arg-type]
    for metric in ("0.5", None, [1]):
        with pytest.raises(TypeError, match="a metric is a number"):
            report(loss=metric)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"at most {LINE_BYTES}"):
        report(**{f"metric{i}": 0.0 for i in range(1000)})
    with pytest.raises(ValueError, match="at most 64 bytes"):
        report(**{"m" * 65: 0.0})
    assert reported(b'{"step": 3, "metrics": {"a": 1}}') == Reported(3, None, {"a": 1.0})
    for line in (b"", b"[]", b"{", b'{"step": -1}', b'{"metrics": 3}', b'{"metrics": {"a": "1"}}', b"\xff", b'{"step": "1"}'):
        with pytest.raises((ValueError, TypeError)):
            reported(line)


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 40), st.integers(0, 60), st.integers(1, 30))
def test_a_record_gives_back_what_it_has_room_for(parts: list[bytes], kept: int, filed: int, most: int) -> None:
    whole = b"".join(parts)
    with tempfile.TemporaryDirectory() as where:
        record = Record(Path(where) / "log", kept=kept, filed=filed)
        for part in parts:
            record.add(part)
        assert record.size == len(whole)
        known, offset = set(), 0
        while offset < record.size:
            data, behind = record.read(offset, most)
            start = behind - len(data)
            assert data and data == whole[start:behind] and start >= offset and len(data) <= most
            known |= set(range(start, behind))
            offset = behind
        assert known == {*range(min(filed, len(whole))), *range(max(0, len(whole) - kept), len(whole))}
        assert bool(record.trouble) == (len(whole) > filed)
        record.close()


def test_outputs_stay_inside(tmp_path: Path) -> None:
    from soma.environments import ArchiveError

    (tmp_path / "in").mkdir()
    (tmp_path / "outside.json").write_text("{}")
    (tmp_path / "in" / "a.json").write_text("{}")
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "b.json").write_text("{}")
    assert matching(tmp_path / "in", ["*.json", "a.*", "nothing"]) == ["a.json"]
    assert matching(tmp_path / "in", ["**/*.json", "deep"]) == ["a.json", "deep/b.json"]
    (tmp_path / "in" / "c.json").symlink_to("a.json")
    assert matching(tmp_path / "in", ["c.json"]) == ["c.json"]
    (tmp_path / "in" / "d").symlink_to("..")
    for pattern in ("d/*.json", "*/outside.json"):
        with pytest.raises(ArchiveError, match="link out"):
            matching(tmp_path / "in", [pattern])
    with pytest.raises(ArchiveError, match="leaves"):
        matching(tmp_path / "in", ["../*.json"])


def test_a_directory_whose_user_is_gone_is_removed_by_the_next(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = f"from soma.jobs.workspace import Workspace; from pathlib import Path; Workspace.create('dead', Path({str(tmp_path / 'r')!r}))"
    subprocess.run([sys.executable, "-c", code + "\nimport os; os._exit(0)"], check=True)
    assert [p.name[:5] for p in (tmp_path / "r").iterdir() if p.is_dir()] == ["dead-"]
    one = Workspace.create("one", tmp_path / "r")
    two = Workspace.create("two", tmp_path / "r")
    assert sorted(p.name[:4] for p in (tmp_path / "r").iterdir() if p.is_dir()) == ["one-", "two-"]
    (one.folder("closed") / "file").write_text("x")
    one.folder("closed").chmod(0o500)
    for held in (one, two):
        held.remove()
        held.remove()
    assert [p.name for p in (tmp_path / "r").iterdir()] == [".lock"]


def test_jobs_need_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soma
    import soma.jobs

    monkeypatch.setenv("SOMA_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "main.py").write_text("")
    with soma.init(local=True), pytest.raises(soma.ActorInitError, match=r"soma\.init\(local=True\) has none"):
        soma.jobs.submit(tmp_path / "main.py")
    assert not (tmp_path / "jobs").exists()
