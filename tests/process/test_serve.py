"""A server with real slots, asked over HTTP: what is promised of predictions as long as nothing breaks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from serve_lives import LATE, Server, served, threads_and_files, until, written

import soma

pytestmark = [pytest.mark.usefixtures("shared_cluster")]

PREDICTOR = textwrap.dedent("""
    import os, sys, threading, time, tempfile
    from pathlib import Path
    from soma.serve import BasePredictor, current_scope, ConcatenateIterator

    class Predictor(BasePredictor):
        def setup(self):
            print("set up")

        def predict(self, do: str, n: float = 1):
            return getattr(self, do)(n)

        def same(self, n): return n
        def slow(self, n):
            print("begun", flush=True)
            time.sleep(n)  # workload
            return "slept"
        def holds(self, n):
            return {"fds": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(),
                    "temporary": len(os.listdir(tempfile.gettempdir()))}
        def lines(self, n):
            for i in range(int(n)):
                print("line %d" % i, file=sys.stderr if i % 7 == 0 else sys.stdout)
        def counts(self, n):
            for i in range(int(n)):
                yield i
        def long_ones(self, n):
            yield "x" * int(n)
            yield {"text": "ä" * int(n)}
            yield "end"
        def two_steps(self, n):
            yield 1
            time.sleep(n)  # workload
            yield 2
        def files(self, n):
            for i in range(int(n)):
                path = Path(tempfile.mkdtemp()) / "out.txt"
                path.write_text(str(i))
                yield path
        def missing(self, n): return Path("/nowhere/out.txt")
        def nan(self, n): return [float("nan")]
        def measured(self, n):
            scope = current_scope()
            for i in range(int(n)):
                scope.record_metric("tokens.out", 2, mode="increment")
                scope.record_metric("steps", i, mode="append")
            scope.record_metric("temperature", 0.5)
        def raises(self, n): raise ValueError("no good")
""")

ASYNC = textwrap.dedent("""
    import asyncio, os, time
    from soma.serve import BasePredictor

    class Predictor(BasePredictor):
        async def setup(self):
            self.met, self.here = asyncio.Event(), 0
        async def predict(self, do: str, n: float = 1):
            return await getattr(self, do)(n)
        async def meet(self, n):
            self.here += 1
            if self.here == n:
                self.met.set()
            await self.met.wait()
            return os.getpid()
        async def sleeps(self, n):
            print("begun", flush=True)
            await asyncio.sleep(n)  # workload
        async def blocks(self, n):
            print("begun", flush=True)
            try:
                await asyncio.sleep(n)  # workload
            except asyncio.CancelledError:
                time.sleep(n)  # workload
        async def pid(self, n): return os.getpid()
        async def healthcheck(self): return True
""")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("serve"), PREDICTOR)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def one(shared_cluster: Any, file: str, temporary: Path) -> Iterator[Server]:
    """One slot and no queue: whatever comes while it is busy is refused."""
    own = {"runtime_env": {"env_vars": {"TMPDIR": str(temporary)}}}
    with served(file, max_queue=0, grace=0.3, actor=own) as server:
        yield server


def test_a_thousand_one_after_the_other_are_not_refused_and_leave_nothing(one: Server) -> None:
    held, here = one.predict("holds")["output"], threads_and_files()
    children = {p.pid for p in psutil.Process().children(recursive=True)}
    for i in range(1000):
        assert one.predict("same", i)["output"] == i
    assert one.predict("holds")["output"] == held
    assert threads_and_files() == here
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= children
    assert len(one.serving.service._predictions) == 1000 and not one.serving.service._where, "as many as are kept"


def test_what_is_wrong_with_outputs_fails_their_prediction_and_nothing_else(one: Server) -> None:
    for do, error in (("nan", "nan"), ("missing", "/nowhere/out.txt"), ("raises", "no good")):
        told = one.predict(do)
        assert told["status"] == "failed" and error in told["error"].lower()
        assert told["metrics"]["predict_time"] >= 0
    assert "ValueError: no good" in told["logs"]
    assert one.predict("same")["status"] == "succeeded"


def test_lines_come_in_order_and_complete(one: Server) -> None:
    told = one.predict("lines", 5000)
    assert told["logs"].splitlines() == [f"line {i}" for i in range(5000)]
    assert one.predict("same")["logs"] == ""


def test_what_is_yielded_is_streamed_whatever_its_size(one: Server) -> None:
    said = one.events("counts", 900)
    assert [data for kind, data in said if kind == "output"] == [{"chunk": i, "index": i} for i in range(900)]
    assert said[0][0] == "start" and said[-1][0] == "completed" and said[-1][1]["output"] == list(range(900))
    said = one.events("long_ones", 200_000)
    assert [data["chunk"] for kind, data in said if kind == "output"] == ["x" * 200_000, {"text": "ä" * 200_000}, "end"]


def test_the_first_item_is_told_while_the_second_is_made(one: Server) -> None:
    came: dict[int, float] = {}
    with one.client.stream("POST", "/predictions", json={"input": {"do": "two_steps", "n": 0.5}},
                           headers={"accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if "chunk" in line and "completed" not in line:
                came.setdefault(line.count('"index":1'), time.monotonic())
    assert came[1] - came[0] > 0.4


def test_files_go_out_in_the_order_they_were_yielded(one: Server, temporary: Path) -> None:
    before = set(os.listdir(temporary))
    output = one.predict("files", 3)["output"]
    assert output == [f"data:text/plain;base64,{text}" for text in ("MA==", "MQ==", "Mg==")]
    assert set(os.listdir(temporary)) <= before


def test_metrics_replace_count_and_append(one: Server) -> None:
    metrics = one.predict("measured", 3)["metrics"]
    assert metrics.pop("predict_time") > 0
    assert metrics == {"tokens": {"out": 6}, "steps": [0, 1, 2], "temperature": 0.5}


def test_without_a_queue_one_too_many_is_refused(one: Server) -> None:
    id = one.start("slow", 30)
    answer = one.client.post("/predictions", json={"input": {"do": "same"}})
    assert answer.status_code == 409 and one.health()["status"] == "BUSY"
    one.cancel(id)
    assert one.ended(id)["status"] == "canceled"


@pytest.mark.parametrize("id", ["../../x", "/etc/x", "..", "a/b", "x" * 10_000, "\0", "a\nb"])
def test_no_id_is_a_path(one: Server, id: str) -> None:
    here = sorted(os.listdir())
    answer = one.client.post("/predictions", json={"id": id, "input": {"do": "same"}})
    assert answer.status_code in (200, 422)
    assert one.predict("same")["status"] == "succeeded" and sorted(os.listdir()) == here and not os.path.exists("/etc/x")


def test_put_is_idempotent_also_afterwards(one: Server) -> None:
    body = {"input": {"do": "slow", "n": 0.2}}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: one.client.put("/predictions/twice", json=body), range(4)))
    assert sorted({answer.status_code for answer in answers} | {200}) in ([200], [200, 202])
    first = one.ended("twice")
    again = one.client.put("/predictions/twice", json={"input": {"do": "same"}})
    assert again.status_code == 200 and again.json() == first, "what it was, not what is asked for now"
    assert one.client.post("/predictions", json={"id": "twice", "input": {"do": "same"}}).status_code == 409


def test_a_hundred_cancels_right_after_202(file: str) -> None:
    with served(file, slots=1) as server:
        ids = []
        for _ in range(100):
            ids.append(server.start("slow", 30))
            server.cancel(ids[-1])
        assert {server.ended(id)["status"] for id in ids} == {"canceled"}
        assert server.predict("same")["status"] == "succeeded" and server.health()["restarts"] == 0


def test_a_client_that_goes_cancels(one: Server) -> None:
    with httpx.Client(base_url=one.url) as other, pytest.raises(httpx.ReadTimeout):
        other.post("/predictions", json={"id": "left", "input": {"do": "slow", "n": 30}}, timeout=0.3)
    gone = time.monotonic()
    assert one.ended("left")["status"] == "canceled"
    assert time.monotonic() - gone < 0.2
    assert one.predict("same")["status"] == "succeeded"


def test_results_are_kept_by_number_and_by_time(file: str) -> None:
    with served(file, keep=2, keep_seconds=0.5) as server:
        for id in ("a", "b", "c"):
            server.predict("same", id=id)
        assert [server.client.get(f"/predictions/{id}").status_code for id in ("a", "b", "c")] == [404, 200, 200]
        until(lambda: server.client.get("/predictions/c").status_code == 404)
        assert server.predict("same", id="c")["id"] == "c", "an id that is forgotten can be taken again"


def test_a_queue_fills_and_empties_and_time_runs_out(file: str) -> None:
    with served(file, max_queue=2, timeout=0.4, grace=5.0) as server:
        ids = [server.start("slow", 30), server.start("same"), server.start("same")]
        answer = server.client.post("/predictions", json={"input": {"do": "same"}})
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        metrics = server.client.get("/metrics").text
        assert "soma_queue 2.0" in metrics and 'soma_slots{state="busy"} 1.0' in metrics and "soma_refused_total 1.0" in metrics
        told = [server.ended(id) for id in ids]
        assert [one["status"] for one in told] == ["failed", "succeeded", "succeeded"]
        assert told[0]["error"] == "the prediction took longer than 0.4 s"
        assert 'soma_predictions_total{status="succeeded"} 2.0' in server.client.get("/metrics").text


def test_more_slots_while_predictions_wait_and_fewer_when_idle(file: str) -> None:
    with served(file, min_slots=1, max_slots=2) as server:
        assert server.health()["slots"]["unused"] == 1
        ids = [server.start("slow", 30), server.start("slow", 30)]
        server.until(lambda told: told["slots"]["busy"] == 2)
        for id in ids:
            server.cancel(id)
            assert server.ended(id)["status"] == "canceled"
        server.serving.service._stable.desk._slots._idle = 0.1  # half a minute otherwise
        server.predict("same")
        told = server.until(lambda told: told["slots"]["unused"] == 1 and told["slots"]["ready"] == 1)
        assert told["restarts"] == 0 and server.predict("same")["status"] == "succeeded"


# -- coroutines ----------------------------------------------------------------------------------------------------------------


def test_coroutines_share_a_process(tmp_path: Path) -> None:
    with served(written(tmp_path, ASYNC), slots=3, grace=0.2) as server:
        pids = [server.ended(id)["output"] for id in [server.start("meet", 3) for _ in range(3)]]
        assert len(set(pids)) == 1
        assert server.health()["status"] == "READY"
        id = server.start("sleeps", 30)
        server.heard(id, "begun")
        server.cancel(id)
        assert server.ended(id)["status"] == "canceled" and server.health()["restarts"] == 0
        stuck = server.start("blocks", 30)
        server.heard(stuck, "begun")
        server.cancel(stuck)
        assert server.ended(stuck)["status"] == "canceled", "by the end of its process"
        server.until(lambda told: told["restarts"] == 1 and told["slots"]["ready"] == 3)
        assert server.predict("pid")["output"] not in pids
        os.kill(server.predict("pid")["output"], signal.SIGKILL)
        server.until(lambda told: told["restarts"] == 2 and told["slots"]["ready"] == 3)


# -- versions ------------------------------------------------------------------------------------------------------------------

VERSION = "class Predictor:\n    def predict(self, n: int) -> str:\n        return {!r}\n"


@contextlib.contextmanager
def asked_without_end(server: Server, answers: list[tuple[int, str]]) -> Iterator[None]:
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=LATE) as client:
            while not stop.is_set():
                answer = client.post("/predictions", json={"input": {"n": 1}})
                answers.append((answer.status_code, str(answer.json().get("output"))))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_reload_refuses_nobody(tmp_path: Path) -> None:
    target = written(tmp_path, VERSION.format("old"))
    answers: list[tuple[int, str]] = []
    with served(target) as server, asked_without_end(server, answers):
        server.until(lambda told: len(answers) > 2)
        written(tmp_path, VERSION.format("new"))
        assert server.do(server.serving.reload())
        written(tmp_path, "raise RuntimeError('broken')")
        assert not server.do(server.serving.reload())
        told = server.health()
        assert told["status"] in ("READY", "BUSY") and "RuntimeError: broken" in told["reload_error"] and told["version"] == "1.2"
        (tmp_path / "predict.py").unlink()
        assert not server.do(server.serving.reload()) and "there is no file" in server.health()["reload_error"]
        server.until(lambda told: answers[-1][1] == "new")
    assert {status for status, _ in answers} == {200}
    said = [output for _, output in answers]
    assert set(said) == {"old", "new"} and len(set(said[said.index("new") + 3:])) == 1


def test_a_canary_takes_its_share(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = written(tmp_path / "new", VERSION.format("new"))
    with served(written(tmp_path, VERSION.format("old")), canary=new, canary_share=0.3) as server:
        told = server.until(lambda told: "canary" in told)
        assert told["canary"] == {"version": "1.1-canary", "status": "READY", "share": 0.3}
        said = [server.client.post("/predictions", json={"input": {"n": 1}}).json() for _ in range(300)]
        assert 45 < [one["output"] for one in said].count("new") < 140
        assert {(one["output"], one["version"]) for one in said} == {("old", "1"), ("new", "1.1-canary")}
        assert server.do(server.serving.reload())
        assert server.health()["canary"]["version"] == "1.2-canary"


# -- values --------------------------------------------------------------------------------------------------------------------


def test_a_client_for_tests_says_why_there_is_none(tmp_path: Path) -> None:
    with soma.serve.test_client(written(tmp_path, VERSION.format("one"))) as client:
        assert client.post("/predictions", json={"input": {"n": 1}}).json()["output"] == "one"
        with pytest.raises(OSError), soma.serve.test_client(tmp_path / "predict.py", port=client.base_url.port):
            pass  # the port is taken
    broken = written(tmp_path, "raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="RuntimeError: broken"), soma.serve.test_client(broken):
        pass
    with pytest.raises(ValueError, match="there is no file"), soma.serve.test_client("nowhere.py:Predictor"):
        pass


class Doubles:
    def predict(self, x: float) -> float:
        return 2 * x


def test_an_object_is_served_as_it_is() -> None:
    with served(Doubles()) as server:
        assert server.client.post("/predictions", json={"input": {"x": 21}}).json()["output"] == 42


@soma.filter
class Scale:
    def fit(self, x: Any, y: Any = None) -> dict[str, Any]:
        return {"mean": x.mean(axis=0)}

    def forward(self, x: Any, state: dict[str, Any]) -> Any:
        return x - state["mean"]


def test_a_fitted_graph_answers_as_it_does_here() -> None:
    x = np.arange(12.0).reshape(4, 3)
    graph = soma.Graph(Scale() >> soma.filter(lambda x: x * 2))
    graph.fit(x)
    expected = graph.forward(x)
    with served(graph) as server:
        told = server.client.post("/predictions", json={"input": {"x": x.tolist()}}).json()
    graph.close()
    assert told["status"] == "succeeded", told
    assert np.allclose(told["output"], expected)


# -- a process of its own --------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import soma
from soma.serve.serving import run
with soma.init(num_cpus=2):
    run(sys.argv[1], port=0, log="none", ready=lambda port: print(port, flush=True))
"""


def test_sigterm_finishes_what_runs_and_leaves_nothing_and_sighup_reloads(tmp_path: Path) -> None:
    text = PREDICTOR + '    def version(self, n): return "old"\n'
    target = written(tmp_path, text)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, target], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{int(process.stdout.readline())}", timeout=LATE) as client:
            until(lambda: client.get("/health-check").json()["status"] == "READY")
            written(tmp_path, text.replace("old", "new"))
            process.send_signal(signal.SIGHUP)
            until(lambda: client.post("/predictions", json={"input": {"do": "version"}}).json()["output"] == "new")
            below = psutil.Process(process.pid).children(recursive=True)
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(client.put, "/predictions/last", json={"input": {"do": "slow", "n": 0.5}})
                with httpx.Client(base_url=client.base_url) as other:
                    until(lambda: other.get("/predictions/last").status_code != 404)
                process.send_signal(signal.SIGTERM)
                assert running.result(LATE).json()["output"] == "slept"
        assert process.wait(LATE) == 0
        assert psutil.wait_procs(below, timeout=2)[1] == []
    finally:
        process.kill()
        process.communicate()


MAIN = """
from __future__ import annotations

from typing import Any, Literal

import soma.serve

class Predictor:
    def predict(self, x: Literal["a", "b"]) -> Any:
        return x * 2

for target in (Predictor, Predictor()):
    with soma.serve.test_client(target) as client:
        print(client.post("/predictions", json={"input": {"x": "b"}}).json()["output"],
              client.post("/predictions", json={"input": {"x": "c"}}).status_code)
"""


def test_a_class_of_a_script_takes_along_what_its_annotations_name(tmp_path: Path) -> None:
    """They are text there, and the class travels by value: `Any` and `Literal` are in none of its code."""
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=25)
    assert done.stdout.split("\n")[:-1] == ["bb 422"] * 2, done.stderr
