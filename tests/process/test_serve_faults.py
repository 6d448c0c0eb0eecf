"""A server whose slots crash, hang, are killed: what is answered, how soon it is ready again, and that the others never notice."""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from serve_lives import LATE, Server, served, until, written

import soma

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]

MARGIN = 0.25
"""Seconds by which a machine that does other things as well may be late, beside what is promised."""

PREDICTOR = textwrap.dedent("""
    import ctypes, itertools, os, sys, time
    from soma.serve import BasePredictor, CancelationException

    class Predictor(BasePredictor):
        def predict(self, do: str, n: float = 1):
            return getattr(self, do)(n)

        def same(self, n): return n
        def pid(self, n): return os.getpid()
        def slow(self, n):
            print("begun", flush=True)
            time.sleep(n)  # workload
            return n
        def native(self, n):
            open("begun", "w").close()
            sum(itertools.repeat(1, 10**13))  # in C, with the GIL: looks at no signal
        def stubborn(self, n):
            print("begun", flush=True)
            end = time.monotonic() + n
            while time.monotonic() < end:
                try:
                    time.sleep(n)  # workload
                except CancelationException:
                    print("not now", flush=True)
        def crashes(self, n):
            print("before the end")
            time.sleep(0.1)  # workload: what was printed is told meanwhile
            ctypes.string_at(0)
        def exits(self, n): os._exit(int(n))
        def eats(self, n):
            eaten = []
            while True:
                eaten.append(bytearray(2**24))
        def closes(self, n):
            os.close(1)
            os.close(2)
            return "closed"
        def yields_and_dies(self, n):
            yield 1
            yield 2
            time.sleep(0.1)  # workload: these are told meanwhile
            os._exit(5)
""")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("faults"), PREDICTOR)


@pytest.fixture(scope="module")
def two(shared_cluster: Any, file: str) -> Iterator[Server]:
    with served(file, slots=2, grace=0.3, max_queue=4) as server:
        yield server


@contextlib.contextmanager
def asked_all_the_time(server: Server) -> Iterator[list[str]]:
    """Predictions one after the other beside what the test does; all of them succeed."""
    stop, said = threading.Event(), list[str]()
    began = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=LATE) as client:
            while not stop.is_set():
                answer = client.post("/predictions", json={"input": {"do": "same"}})
                said.append(f"{answer.status_code} {answer.json().get('status')}")
                began.set()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert began.wait(LATE)
        yield said
    finally:
        stop.set()
        thread.join()
    assert set(said) == {"200 succeeded"}


@pytest.fixture(autouse=True)
def forgiven(request: pytest.FixtureRequest) -> None:
    """Deaths of earlier tests do not add up: that is another test's matter."""
    if "two" in request.fixturenames:
        server: Server = request.getfixturevalue("two")
        server.until_free(2)
        server.serving.service._stable.desk._deaths.clear()


# -- one of two slots dies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("do", "n", "error"),
                         [("crashes", 1, "SIGSEGV"), ("exits", 3, "exited with code 3"), ("exits", 0, "exited with code 0")])
def test_the_other_slot_goes_on(two: Server, do: str, n: int, error: str) -> None:
    with asked_all_the_time(two) as said:
        before = len(said)
        told = two.predict(do, n)
        died = time.monotonic()
        assert told["status"] == "failed" and error in told["error"] and told["metrics"]["predict_time"] > 0
        two.until_free(1)
        two.until(lambda told: len(said) > before + 3)
        two.until(lambda told: told["slots"]["starting"] == 0)
        assert time.monotonic() - died < 0.3 + MARGIN, "a setup that does nothing takes no time"
    if do == "crashes":
        assert "before the end" in told["logs"]


def test_kill_9_is_told_within_50_ms(two: Server) -> None:
    waits: list[float] = []
    for _ in range(3):
        with asked_all_the_time(two):
            id = two.start("slow", 30)
            two.heard(id, "begun")
            pid = busy_pid(two)
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            told = two.ended(id)
            waits.append(time.monotonic() - began)
            assert told["status"] == "failed" and "SIGKILL" in told["error"]
        two.until_free(2)
    assert min(waits) < 0.05, waits


def busy_pid(server: Server) -> int:
    """Of the slot that sleeps."""
    lives = server.serving.service._stable._lives.values()
    actors = {actor["actor_id"]: actor["pid"] for actor in soma.status()["actors"]}
    slot = next(life for life in lives if life.now is not None and life.now.prediction.clean["do"] == "slow")
    return int(actors[slot.process.actor.actor_id])


def test_memory_over_its_limit_is_named(file: str) -> None:
    with served(file, slots=2, actor={"memory": 300 * 2**20}) as server, asked_all_the_time(server):
        told = server.predict("eats")
        assert told["status"] == "failed" and ("memory" in told["error"].lower() or "MemoryError" in told["error"]), told["error"]
        server.until(lambda told: told["slots"]["starting"] == 0)


def test_what_was_yielded_before_the_death_is_kept(two: Server) -> None:
    told = two.predict("yields_and_dies")
    assert told["status"] == "failed" and told["output"] == [1, 2] and "exited with code 5" in told["error"]


def test_a_slot_that_dies_idle_comes_back(two: Server) -> None:
    restarts = two.health()["restarts"]
    os.kill(two.predict("pid")["output"], signal.SIGKILL)
    two.until(lambda told: told["restarts"] == restarts + 1 and told["slots"]["ready"] == 2)


def test_a_slot_that_dies_under_one_that_is_coming_loses_nothing(two: Server) -> None:
    for _ in range(3):
        os.kill(two.predict("pid")["output"], signal.SIGKILL)
        assert two.predict("same")["status"] == "succeeded"
        two.until_free(2)


def test_deaths_without_end_are_the_end(file: str) -> None:
    with served(file, slots=2) as server:
        said = []
        while server.health()["status"] != "DEFUNCT":
            answer = server.client.post("/predictions", json={"input": {"do": "exits", "n": 7}})
            said.append(answer.status_code)
            assert len(said) < 20
        assert set(said) <= {200, 503} and said.count(200) == 6
        told = server.health()
        assert "exited with code 7" in told["error"] and told["slots"]["failed"] == 2
        answer = server.client.post("/predictions", json={"input": {"do": "same"}})
        assert answer.status_code == 503 and "gave up" in answer.json()["detail"]
        assert server.do(server.serving.reload()), "until it is made anew"
        assert server.predict("same")["status"] == "succeeded"


def begun(file: str) -> None:
    """Until the native one says so, which nobody could read from its prints; then it is as if it never had."""
    said = Path(file.partition(":")[0]).parent / "begun"
    until(said.exists)
    said.unlink()


# -- what does not end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", ["native", "stubborn"])
def test_a_cancel_is_enforced_after_the_grace(two: Server, file: str, do: str) -> None:
    with asked_all_the_time(two):
        id = two.start(do, 60)
        if do == "native":
            begun(file)
        else:
            two.heard(id, "begun")
        began = time.monotonic()
        two.cancel(id)
        told = two.ended(id)
        assert told["status"] == "canceled" and told["error"] is None
        assert 0.25 < time.monotonic() - began < 0.3 + 1.0
        two.until(lambda told: told["slots"]["starting"] == 0)


def test_the_time_of_a_prediction_runs_out_also_in_c(file: str) -> None:
    with served(file, timeout=0.2, grace=0.2) as server:
        told = server.predict("native", 60)
        assert told["status"] == "failed" and told["error"] == "the prediction took longer than 0.2 s"
        assert server.predict("same")["status"] == "succeeded", "it waits for the new process"


def test_closed_descriptors_are_the_matter_of_one(two: Server) -> None:
    assert two.predict("closes")["status"] in ("succeeded", "failed")
    for _ in range(4):
        assert two.predict("same")["status"] == "succeeded"


# -- setup -----------------------------------------------------------------------------------------------------------------------

SETUPS = {
    "raises": ("raise RuntimeError('no weights')", "RuntimeError: no weights"),
    "exits": ("sys.exit('no licence')", "no licence"),
    "dies": ("os._exit(4)", "exited with code 4"),
    "crashes": ("ctypes.string_at(0)", "SIGSEGV"),
    "kills itself": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "hangs": ("time.sleep(60)  # workload", "setup took longer than 0.6 s"),
}


@pytest.mark.parametrize("how", SETUPS)
@pytest.mark.parametrize("slots", [1, 2])
def test_a_setup_that_fails(tmp_path: Path, how: str, slots: int) -> None:
    code, error = SETUPS[how]
    target = written(tmp_path, f"import ctypes, os, sys, time\nclass Predictor:\n    def setup(self):\n"
                               f"        for i in range(1000): print('step', i, flush=i == 999)\n        {code}\n"
                               f"    def predict(self) -> int: return 1\n")
    with served(target, ready=False, slots=slots, setup_timeout=0.6 if how == "hangs" else 20.0) as server:
        assert not server.do(server.serving.service.ready())
        told = server.health()
        assert told["status"] == "SETUP_FAILED" and told["setup"]["status"] == "failed"
        logs = told["setup"]["logs"]
        assert logs.startswith("".join(f"step {i}\n" for i in range(1000)))
        assert error in logs and error in told["error"]
        answer = server.client.post("/predictions", json={"input": {}})
        assert answer.status_code == 503


@pytest.mark.parametrize("text", ["def (", "x = 1\n", "class Predictor:\n    pass\n", "import nowhere_to_be_found\n"])
def test_a_file_that_cannot_be_served(tmp_path: Path, text: str) -> None:
    with served(written(tmp_path, text), ready=False) as server:
        assert not server.do(server.serving.service.ready())
        told = server.health()
        assert told["status"] == "SETUP_FAILED" and told["setup"]["logs"].strip()


def test_health_is_told_while_the_setup_runs(tmp_path: Path) -> None:
    target = written(tmp_path, textwrap.dedent("""
        import os, time
        class Predictor:
            def setup(self):
                print("reading weights", flush=True)
                while not os.path.exists("go"):
                    time.sleep(0.01)  # workload
            def predict(self) -> int: return 1
    """))
    with served(target, ready=False) as server:
        told = server.until(lambda told: "reading weights" in told["setup"]["logs"])
        assert told["status"] == "STARTING" and told["setup"]["status"] == "starting" and told["setup"]["completed_at"] is None
        answer = server.client.post("/predictions", json={"input": {}})
        assert answer.status_code == 503 and "retry-after" in answer.headers
        (tmp_path / "go").touch()
        told = server.until(lambda told: told["status"] == "READY")
        assert told["setup"]["status"] == "succeeded" and told["setup"]["logs"] == "reading weights\n"


def test_a_server_that_ends_in_its_setup_leaves_nothing(tmp_path: Path) -> None:
    text = "import time\nclass Predictor:\n    def setup(self): time.sleep(60)\n    def predict(self) -> int: return 1\n"
    target = written(tmp_path, text)
    began = time.monotonic()
    with served(target, ready=False, slots=2) as server:
        server.health()
    assert time.monotonic() - began < 3.0


# -- the user's own check ----------------------------------------------------------------------------------------------------------

CHECKED = textwrap.dedent("""
    import os, time
    class Predictor:
        def predict(self, do: str = "", n: float = 1) -> str:
            time.sleep(n if do == "slow" else 0)  # workload
            return str(os.getpid()) if do == "pid" else do
        def healthcheck(self):
            if os.path.exists("slow"):
                time.sleep(4)  # workload
            while os.path.exists("held"):
                time.sleep(0.01)  # workload
            return not os.path.exists("unwell")
""")


def test_a_slow_healthcheck_delays_nobody(tmp_path: Path) -> None:
    with served(written(tmp_path, CHECKED)) as server:
        assert server.health()["status"] == "READY"
        (tmp_path / "slow").touch()
        asked = server.begin(server.serving.service.check_health())
        other = server.begin(server.serving.service.check_health())
        for _ in range(20):
            began = time.monotonic()
            assert server.predict("")["status"] == "succeeded"
            assert time.monotonic() - began < 0.2 + MARGIN
        id = server.start("slow", 30)
        server.cancel(id)
        assert server.ended(id)["status"] == "canceled"
        assert not asked.done() and not other.done()
        (tmp_path / "unwell").touch()
        told = asked.result(LATE)
        assert told["status"] == "UNHEALTHY" and told["user_healthcheck_error"] == "the healthcheck returned False"
        assert other.result(LATE)["status"] == "UNHEALTHY"
        (tmp_path / "slow").unlink()
        assert server.health()["status"] == "UNHEALTHY"
        assert server.predict("")["status"] == "succeeded"
        (tmp_path / "unwell").unlink()
        assert server.health()["status"] == "READY"


def test_who_carries_the_questions_may_die(tmp_path: Path) -> None:
    """Also while it is asked: it is made again, and asked again."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with served(written(tmp_path, CHECKED)) as server:
        assert server.health()["status"] == "READY"
        slot = int(server.predict("pid")["output"])

        def board() -> int:
            there: set[int] = set()
            while len(there) != 1:  # it may be dying, or being made
                there = {p.pid for p in psutil.Process().children(recursive=True)} - before - {slot}
            return there.pop()

        first = board()
        os.kill(first, signal.SIGKILL)
        assert server.health()["status"] == "READY" and board() != first
        (tmp_path / "held").touch()
        asked = server.begin(server.serving.service.check_health())
        second = board()
        os.kill(second, signal.SIGKILL)
        until(lambda: board() != second)
        (tmp_path / "held").unlink()
        assert asked.result(LATE)["status"] == "READY"
        assert int(server.predict("pid")["output"]) == slot


def test_a_check_that_hangs_is_left_behind_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soma.serve.service.CHECK", 0.1)
    (tmp_path / "slow").touch()
    with served(written(tmp_path, CHECKED)) as server:
        told = server.health()
        assert told["status"] == "UNHEALTHY" and "longer than 0.1 s" in told["user_healthcheck_error"]
        assert server.predict("")["status"] == "succeeded"


# -- the end -----------------------------------------------------------------------------------------------------------------------


def test_at_the_end_what_does_not_end_is_canceled(file: str) -> None:
    with served(file, patience=0.2, grace=0.2) as server:
        id = server.start("native", 60)
        waits = server.start("same")
        begun(file)
        service = server.serving.service
        server.serving.server.stop()
        prediction, queued = (service._predictions[f"prediction/{name}"] for name in (id, waits))
        began = time.monotonic()
    assert prediction.status == "canceled" and queued.status == "canceled"
    assert not service._where
    assert time.monotonic() - began < 2.5
