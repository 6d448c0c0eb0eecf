"""Jobs as real processes: how they end, what they leave, and that nothing of them stays."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import soma
import soma.events
import soma.jobs as jobs
from soma.environments import EnvironmentSpec
from soma.environments.environments import parents_of
from soma.jobs import JobError, JobState, Phase

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "environments"))

from wheels import make_wheel

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]

SOON = 10.0


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the cluster of these tests keeps jobs and environments, and the only place where uv finds packages."""
    where = tmp_path_factory.mktemp("places")
    (where / "wheels").mkdir()
    make_wheel(where / "wheels", "toy", "1.0")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("UV_", "PIP_"))]:
            patch.delenv(name)
        for name, value in {"SOMA_JOBS": where / "jobs", "SOMA_ENVIRONMENTS": where / "environments", "UV_FIND_LINKS": where / "wheels",
                            "UV_CACHE_DIR": where / "cache", "UV_OFFLINE": 1}.items():
            patch.setenv(name, str(value))
        yield where


def job(tmp_path: Path, source: str, **options: Any) -> str:
    (tmp_path / "main.py").write_text(source)
    return jobs.submit(tmp_path / "main.py", **options)


def gone(pids: list[int]) -> bool:
    """Whether processes end soon; a zombie has ended."""
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=5)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def left_of(name: str, places: Path) -> list[str]:
    """Directories of a job in which its program ran."""
    return [p.name for p in (places / "jobs").iterdir() if p.is_dir() and p.name.startswith(f"{name}-")]


def test_one_that_succeeds(tmp_path: Path, places: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "data.txt").write_text("some data")
    (tmp_path / "sub" / "train.py").write_text("""if True:
        import json, os, sys
        from soma.jobs import job_id, params, report
        print("out", open("data.txt").read(), sys.argv[1:], os.environ["MY_VARIABLE"])
        print("err", file=sys.stderr)
        for step in range(4):
            report(step=step + 1, total=4, loss=1 / (step + 1))
        report(accuracy=0.5)
        os.mkdir("deep")
        json.dump({"params": params(), "id": job_id(), "tmp": os.environ["TMPDIR"]}, open("deep/out.json", "w"))
        open("not-wanted", "w").write("x")
    """)
    name = jobs.submit("sub/train.py", working_dir=tmp_path, args=["--epochs", "$(id); 3"], env_vars={"MY_VARIABLE": "mine"},
                       outputs=["**/*.json", "missing-*"], params={"lr": 0.1}, timeout=60, job_id="good.one")
    result = jobs.result(name, timeout=SOON)
    assert (name, result.success, result.state, result.exit_code, result.signal) == ("good.one", True, JobState.SUCCEEDED, 0, None)
    assert result.metrics == {"loss": 0.25, "accuracy": 0.5} and result.message == "" and result.duration_ms > 0
    assert sorted(jobs.logs(name).splitlines()) == ["err", "out some data ['--epochs', '$(id); 3'] mine"]
    assert jobs.logs(name, last=1).count("\n") == 1
    status = jobs.status(name)
    assert (status.progress.phase, status.progress.step, status.progress.total) == (Phase.COLLECTING, 4, 4)
    assert status.ended is not None and status.started is not None and status.submitted <= status.started <= status.ended
    assert name in [s.id for s in jobs.list_jobs()]

    from blake3 import blake3
    [path] = jobs.download(name, tmp_path / "there")
    data = path.read_bytes()
    assert path == tmp_path / "there" / "deep" / "out.json" and '"lr": 0.1' in data.decode() and '"id": "good.one"' in data.decode()
    assert {k: (v.bytes, v.hash) for k, v in result.outputs.items()} == {"deep/out.json": (len(data), blake3(data).hexdigest())}
    assert left_of(name, places) == []
    with pytest.raises(ValueError, match=r"good\.one"):
        jobs.submit("sub/train.py", working_dir=tmp_path, job_id=name)
    jobs.delete(name)
    with pytest.raises(JobError, match=r"no job 'good\.one'"):
        jobs.status(name)
    assert list((places / "jobs").glob("good.one*")) == []


def test_those_that_fail_say_how(tmp_path: Path, places: Path) -> None:
    cases: list[tuple[str, int | None, str | None, str]] = [
        ("raise SystemExit(3)", 3, None, "exit code 3"), ("raise ValueError('why')", 1, None, "exit code 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", None, "SIGSEGV", "ended by SIGSEGV")]
    names = [job(tmp_path, "open('out.json', 'w').close()\n" + source, outputs=["*.json"]) for source, *_ in cases]
    for name, (_, code, number, words) in zip(names, cases, strict=True):
        result = jobs.result(name, timeout=SOON)
        assert (result.success, result.state, result.exit_code, result.signal) == (False, JobState.FAILED, code, number)
        assert words in result.message and result.outputs == {} and left_of(name, places) == []
        assert ("ValueError: why" in jobs.logs(name)) == (code == 1)
        with pytest.raises(JobError, match=words):
            jobs.download(name, tmp_path / "there")


def test_its_environment_is_made_and_found_again(tmp_path: Path) -> None:
    pytest.importorskip("uv")
    source = "import sys, toy; from soma.jobs import report; report(version=float(toy.VERSION)); print(sys.prefix)"
    told, wanted = [], f"toy>=0.{secrets.randbelow(10**9)}"  # one that no test before had
    for _ in range(2):
        name = job(tmp_path, source, requirements=[wanted])
        result = jobs.result(name, timeout=SOON)
        assert result.success and result.metrics == {"version": 1.0}, result.message
        told.append(jobs.logs(name))
    assert "toy==1.0" in told[0] and told[1].splitlines() == [told[0].splitlines()[-1]]  # its prefix is the same


def test_without_its_environment_it_does_not_run_at_all(tmp_path: Path) -> None:
    pytest.importorskip("uv")
    ran = tmp_path / "ran"
    name = job(tmp_path, f"open({str(ran)!r}, 'w')", requirements=["toy==7"])
    result = jobs.result(name, timeout=SOON)
    assert not result.success and "uv pip install" in result.message and "toy==7" in result.message
    assert jobs.status(name).progress.phase is Phase.ENVIRONMENT and not ran.exists()
    assert (result.exit_code, result.signal) == (None, None)


STUBBORN = """if True:
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    def daemon():
        r, w = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(w, str(os.getpid()).encode())
                os.close(1), os.close(2)
                time.sleep(60)
            os._exit(0)
        os.wait()
        return int(os.read(r, 20))
    pids.append(daemon())
    print(*pids, flush=True)
"""


def pids_of(name: str) -> list[int]:
    return [int(pid) for pid in line(jobs.follow(name)).split()]


def line(pieces: Iterator[str]) -> str:
    text = ""
    while not text.endswith("\n"):
        text += next(pieces)
    return text


def test_cancelling_ends_all_of_it_within_a_second(tmp_path: Path, places: Path) -> None:
    name = job(tmp_path, STUBBORN + "    time.sleep(60)")
    pids = pids_of(name)
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    began = time.monotonic()
    assert jobs.cancel(name)
    took = time.monotonic() - began
    assert took < 1.0 and jobs.status(name).state is JobState.CANCELLED
    assert gone(pids) and left_of(name, places) == [] and not jobs.cancel(name)


def test_one_that_waits_for_room_can_be_cancelled(tmp_path: Path) -> None:
    first = job(tmp_path, "import time; print('up', flush=True); time.sleep(60)", num_cpus=4)
    next(jobs.follow(first))
    second = job(tmp_path, "pass")
    assert jobs.status(second).state is JobState.PENDING
    with pytest.raises(soma.errors.GetTimeoutError, match="PENDING"):
        jobs.wait(second, timeout=0.05)
    assert jobs.cancel(second) and jobs.result(second).state is JobState.CANCELLED
    third = job(tmp_path, "pass")
    jobs.delete(first)  # which cancels it
    assert jobs.result(third, timeout=SOON).success  # what the first had reserved is free


def test_one_whose_environment_is_being_made_can_be_cancelled(tmp_path: Path, places: Path) -> None:
    filelock = pytest.importorskip("filelock")
    spec = EnvironmentSpec((f"toy>=0.{secrets.randbelow(10**9)}",))
    jobs.result(job(tmp_path, "", requirements=()), timeout=SOON)  # so that there is a place for locks
    with filelock.FileLock(places / "environments" / ".locks" / spec.key(parents_of(spec.python))):  # as if another process made it
        name = job(tmp_path, "", requirements=spec.requirements)
        while jobs.status(name).progress.phase is not Phase.ENVIRONMENT:
            with pytest.raises(soma.errors.GetTimeoutError):
                jobs.wait(name, timeout=0.02)
        assert jobs.cancel(name) and jobs.result(name).state is JobState.CANCELLED
        assert "died" not in jobs.result(name).message and left_of(name, places) == []


def test_a_limit_in_time(tmp_path: Path) -> None:
    name = job(tmp_path, "import time; time.sleep(60)", timeout=0.3)
    result = jobs.result(name, timeout=SOON)
    assert not result.success and "timeout: it took more than 0.3 s" in result.message and result.duration_ms < 2000


def test_a_daemon_that_it_leaves_is_ended_with_it(tmp_path: Path) -> None:
    name = job(tmp_path, STUBBORN)
    assert jobs.result(name, timeout=SOON).success
    [_, daemon] = pids_of(name)
    assert gone([daemon])


def test_a_limit_on_the_disk(tmp_path: Path, places: Path) -> None:
    fills = "import os, time\nopen({}, 'wb').write(bytes(3_000_000))\n{}"
    names = [job(tmp_path, fills.format(*how), disk_quota=1_000_000) for how in
             [("'big'", "time.sleep(60)"), ("os.path.join(os.environ['TMPDIR'], 'big')", "pass")]]  # one stays, one is gone at once
    for name in names:
        result = jobs.result(name, timeout=SOON)
        assert not result.success and "disk_quota: its files take 3" in result.message and left_of(name, places) == []


def test_a_limit_on_memory_counts_its_children(tmp_path: Path) -> None:
    name = job(tmp_path, "x = bytearray(400_000_000); import time; time.sleep(60)", memory=300_000_000)
    result = jobs.result(name, timeout=SOON)
    assert not result.success and "memory" in result.message


def test_its_output_can_be_followed_while_it_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    name = job(tmp_path, f"import sys; print('één', flush=True); open({str(gate)!r}).read(); sys.stdout.write('zwei')")
    pieces = jobs.follow(name)
    assert line(pieces) == "één\n" and jobs.status(name).state is JobState.RUNNING
    gate.write_text("go on")
    assert "".join(pieces) == "zwei" and "".join(jobs.follow(name)) == "één\nzwei"


def test_it_is_told_to_those_who_listen(tmp_path: Path) -> None:
    heard: list[soma.events.Event] = []
    over = threading.Event()

    def hear(event: soma.events.Event) -> None:
        fields = event.as_dict()
        if fields["run_id"] == "told":
            heard.append(event)
            if isinstance(event, soma.events.JobEnded):
                over.set()

    stop = soma.on_event(hear)
    try:
        job(tmp_path, "from soma.jobs import report\nfor i in range(1000): report(i, 1000, loss=i)", job_id="told")
        jobs.wait("told", timeout=SOON)
        assert over.wait(SOON)
    finally:
        stop()
    assert [e.seq for e in heard] == list(range(len(heard))) and len(heard) < 50
    told = [{**e.as_dict(), **e.as_dict().get("fields", {})} for e in heard]
    assert [t["phase"] for t in told[:-1]] == ["preparing", "environment", *["running"] * (len(told) - 4), "collecting"]
    assert told[-1]["state"] == "SUCCEEDED" and told[-1]["metrics"] == {"loss": 999.0}
    jobs.delete("told")


def test_reports_that_are_none_and_output_that_is_no_text_do_no_harm(tmp_path: Path) -> None:
    name = job(tmp_path, "import os, sys\nos.write(1, b'\\xff\\x00\\n')\nopen(os.environ['SOMA_JOB_PROGRESS'], 'wb').write(b'[1]\\n')")
    assert jobs.result(name, timeout=SOON).success
    assert "\ufffd\0" in jobs.logs(name) and "soma: a report that is none was dropped" in jobs.logs(name)


def test_the_process_that_runs_it_is_killed(tmp_path: Path) -> None:
    name = job(tmp_path, STUBBORN + "    time.sleep(60)")
    pids = pids_of(name)
    runner = psutil.Process(pids[0]).ppid()
    os.kill(runner, signal.SIGKILL)
    result = jobs.result(name, timeout=SOON)
    assert not result.success and "its process died" in result.message and "SIGKILL" in result.message
    assert gone([runner, *pids])


def test_the_actor_that_keeps_it_is_killed(tmp_path: Path) -> None:
    name = job(tmp_path, STUBBORN + "    time.sleep(60)")
    pids = pids_of(name)
    soma.kill(soma.get_actor(name, namespace="_soma_jobs"))
    assert gone(pids)
    with pytest.raises(JobError, match="no job|is lost"):
        jobs.result(name, timeout=SOON)
    assert name not in [s.id for s in jobs.list_jobs()]


def test_an_output_that_leads_out_fails_the_job(tmp_path: Path) -> None:
    name = job(tmp_path, "import os; os.symlink('/etc/hostname', 'a.json')", outputs=["*.json"])
    result = jobs.result(name, timeout=SOON)
    assert not result.success and "'a.json'" in result.message and "link out" in result.message and result.outputs == {}


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("")
    before = len(jobs.list_jobs())
    for wrong in ({"entry": "../main.py"}, {"entry": "/etc/passwd"}, {"entry": "missing.py"}, {"outputs": ["../*"]}, {"num_cpus": -1},
                  {"job_id": "../x"}, {"requirements": ["-e ."]}, {"disk_quota": 0}):
        with pytest.raises(ValueError):
            jobs.submit(**{"entry": "main.py", "working_dir": tmp_path, **wrong})
    assert len(jobs.list_jobs()) == before
    name = job(tmp_path, "", num_gpus=64)  # more than there is anywhere
    assert "PlacementError" in jobs.result(name, timeout=SOON).message
