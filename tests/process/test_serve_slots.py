"""Slots as real actors: what a prediction says before it ends, how it ends, and that nothing of it is left for the next one."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma
from soma.errors import ActorDiedError, TaskCancelledError
from soma.serve.slots import AsyncSlotActor, HealthBoard, Job, SlotActor, Source

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]
get = partial(soma.get, timeout=20)
Slot = soma.remote(SlotActor)
AsyncSlot = soma.remote(AsyncSlotActor)

PREDICTOR = """
    import asyncio, ctypes, os, subprocess, sys, tempfile, threading, time
    from pathlib import Path
    from soma.serve.slots import current_scope
    from soma.actors.context import Interrupted

    print("imported")

    class Predictor:
        def setup(self):
            self.count = 0
            tempfile.tempdir = os.path.abspath("temporary")
            os.makedirs(tempfile.tempdir, exist_ok=True)
            print("set up")
            subprocess.run(["sh", "-c", "echo by a child"])

        def predict(self, do: str, n: int = 1, file: Path = None):
            return getattr(self, do)(n) if file is None else getattr(self, do)(file)

        def same(self, n): return n
        def nothing(self, n): return None
        def many(self, n): return list(range(n))
        def one_of_many(self, n): return ["one"]
        def pid(self, n): return os.getpid()
        def environment(self, n): return {"fds": len(os.listdir("/proc/self/fd")), "threads": threading.active_count(), "cwd": os.getcwd(),
                                          "tmp": sorted(os.listdir(tempfile.gettempdir()))}
        def counted(self, n):
            self.count += n
            return self.count
        def lines(self, n):
            for i in range(n):
                print("line %d of a prediction that says a lot" % i)
        def mixed(self, n):
            print("print")
            os.system("echo child")
            ctypes.CDLL(None).puts(b"C")
            print("unfinished", end="", file=sys.stderr)
        def late(self, n):
            subprocess.Popen(["sh", "-c", "sleep 0.2; echo late"])  # workload
            print("early")
        def stream(self, n):
            for i in range(n):
                yield f"token {i}"
        def large(self, n):
            yield "ä" * n
            yield {"deep": [[[[[[[[[[n]]]]]]]]]]}
        def fails_late(self, n):
            yield 1
            raise ValueError("after one")
        async def coroutine(self, n):
            await asyncio.sleep(0)
            return n
        async def agen(self, n):
            for i in range(n):
                await asyncio.sleep(0)
                yield i
        def raises(self, n): raise ValueError("no good")
        def exits(self, n): sys.exit(3)
        def ctrl_c(self, n): raise KeyboardInterrupt
        def nan(self, n): return {"a": [float("nan")]}
        def dies(self, n):
            print("last words")
            os._exit(n)
        def crashes(self, n):
            print("before")
            ctypes.string_at(0)
        def forks(self, n):
            pid = os.fork()
            print("parent" if pid else "child")
            if pid:
                os.waitpid(pid, 0)
            return n
        def forks_and_exits(self, n):
            pid = os.fork()
            if not pid:
                sys.exit(4)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        def sleeps(self, n):
            try:
                print("begun", flush=True)
                time.sleep(60)  # workload
            except Interrupted:
                print("cleaning up")
                raise
            finally:
                print("at last")
        def swallows(self, n):
            try:
                print("begun", flush=True)
                time.sleep(60)  # workload
            except Interrupted:
                return "swallowed"
        def sleeps_between(self, n):
            try:
                yield 1
                print("begun", flush=True)
                time.sleep(60)  # workload
                yield 2
            except Interrupted:
                print("cleaning up")
                raise
        async def async_sleeps(self, n):
            try:
                print("begun", flush=True)
                await asyncio.sleep(60)  # workload
            finally:
                await asyncio.sleep(0)
                print("at last")
        def writes(self, n):
            out = Path(tempfile.mkdtemp()) / "out.txt"
            out.write_text("made")
            return [out, out]
        def missing(self, n): return Path("/nowhere/out.txt")
        def reads(self, file): return [file.read_text(), str(file)]
        def metrics(self, n):
            scope = current_scope()
            for _ in range(n):
                scope.record_metric("tokens.out", 1, mode="increment")
            scope.record_metric("temperature", 0.5)
            scope.record_metric("shape", [1, 2])
            thread = threading.Thread(target=lambda: current_scope().record_metric("threads", 1))
            thread.start()
            thread.join()
            return scope.context["traceparent"]
        def wrong_metric(self, n): current_scope().record_metric("predict_time", 1)

    def train(n: int = 1):
        print("training")
        current_scope().record_metric("loss", 0.5)
        return {"weights": n}
"""


class Asked:
    """A slot, and what it says."""

    def __init__(self, source: Source, actor: Any = Slot, *more: Any) -> None:
        self.handle = actor.remote(source, *more)
        self.setup: dict[str, Any] = get(self.handle.setup.remote())

    def begin(self, do: str, n: int = 1, heard: Callable[[Any], Any] = lambda said: None, **given: Any) -> Any:
        job = Job(given.pop("id", "x"), {"do": do, "n": n, **given.pop("input", {})}, **given)
        return self.handle.predict.options(listener=heard).remote(*job)

    def predict(self, do: str, n: int = 1, **given: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        said: list[dict[str, Any]] = []
        return get(self.begin(do, n, said.append, **given)), said

    def logs(self, do: str, n: int = 1, **given: Any) -> str:
        return logs_of(self.predict(do, n, **given)[1])

    @contextlib.contextmanager
    def running(self, do: str) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        """A prediction that has said that it has begun."""
        said: list[dict[str, Any]] = []
        begun: queue.SimpleQueue[None] = queue.SimpleQueue()

        def heard(message: dict[str, Any]) -> None:
            said.append(message)
            if "begun" in message.get("text", ""):
                begun.put(None)

        ref = self.begin(do, 1, heard)
        future = ref.future()  # somebody listens
        begun.get(timeout=20)
        yield ref, said
        with contextlib.suppress(Exception):
            future.exception(timeout=20)


def logs_of(said: list[dict[str, Any]]) -> str:
    return "".join(s["text"] for s in said if s["kind"] == "log")


def outputs_of(said: list[dict[str, Any]]) -> list[Any]:
    found: list[Any] = []
    text = ""
    for message in said:
        match message:
            case {"kind": "outputs", "first": first, "values": values}:
                assert first == len(found)
                found += values
            case {"kind": "output", "index": index, "value": value}:
                assert index == len(found)
                found.append(value)
            case {"kind": "output", "index": index, "part": part, "last": last}:
                assert index == len(found)
                text += part
                if last:
                    found.append(json.loads(text))
                    text = ""
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "predict.py").write_text(textwrap.dedent(PREDICTOR))
    return folder


@pytest.fixture(scope="module")
def slot(shared_cluster: Any, folder: Path) -> Iterator[Asked]:
    yield Asked(Source(file=str(folder / "predict.py"), name="Predictor"))


# -- set-up ----------------------------------------------------------------------------------------------------------------------


def test_setup_says_what_it_printed(slot: Asked) -> None:
    assert slot.setup["ok"] and slot.setup["logs"] == "imported\nset up\nby a child\n"
    assert not slot.setup["has_healthcheck"] and not slot.setup["is_async"]


@pytest.mark.parametrize(("text", "name", "error", "logged"), [
    ("def f(:\n", "", "SyntaxError", "predict.py\", line 1"),
    ("import no_such_module", "", "No module named 'no_such_module'", "ModuleNotFoundError"),
    ("x = 1", "Predictor", "defines no 'Predictor'; it defines", ""),
    ("x = 1", "", "there is none", ""),
    ("class A:\n def predict(self): ...\nclass B(A): ...", "", "there is A, B", ""),
    ("class A:\n def setup(self):\n  print('tried')\n  raise OSError('no weights')\n def predict(self): ...", "A", "OSError: no weights",
     "tried\nTraceback (most recent call last):\n  File"),
    ("import sys\nprint('leaving')\nsys.exit(2)", "", "sys.exit(2)", "leaving\n"),
    ("A = 3", "A", "int, which has no predict", ""),
])
def test_a_setup_that_fails(tmp_path: Path, text: str, name: str, error: str, logged: str) -> None:
    (tmp_path / "predict.py").write_text(text)
    said: list[Any] = []
    told = get(Slot.remote(Source(file=str(tmp_path / "predict.py"), name=name)).setup.options(listener=said.append).remote())
    assert not told["ok"] and error in told["error"] and logged in told["logs"] and told["logs"] == logs_of(said)
    assert "soma/serve" not in told["logs"], "its own frames say nothing about the user's mistake"


def test_a_file_that_is_not_there() -> None:
    told = get(Slot.remote(Source(file="/nowhere/predict.py")).setup.remote())
    assert not told["ok"] and "no file '/nowhere/predict.py'" in told["error"]


def test_what_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("A = 'plain'")
    (tmp_path / "weights.txt").write_text("weights")
    (tmp_path / "random-name.py").write_text("from .beside import A\nimport beside\n\ndef predict(do: str, n: int):\n"
                                             "    return [A, beside.A, open('weights.txt').read()]")
    assert Asked(Source(file=str(tmp_path / "random-name.py"))).predict("x")[0]["output"] == ["plain", "plain", "weights"]


def test_a_file_in_a_package(tmp_path: Path) -> None:
    inner = tmp_path / "mine" / "models"
    inner.mkdir(parents=True)
    for path, text in {"mine/__init__.py": "", "mine/models/__init__.py": "", "mine/names.py": "NAME = 'above'",
                       "mine/models/predict.py": "from ..names import NAME\ndef predict(do: str, n: int): return [NAME, __name__]"}.items():
        (tmp_path / path).write_text(text)
    assert Asked(Source(file=str(inner / "predict.py"))).predict("x")[0]["output"] == ["above", "mine.models.predict"]


# -- outputs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("do", "n", "output", "is_list"), [
    ("same", 7, 7, False), ("nothing", 1, None, False), ("many", 3, [0, 1, 2], True), ("many", 0, [], True),
    ("one_of_many", 1, ["one"], True), ("coroutine", 5, 5, False)])
def test_what_is_returned(slot: Asked, do: str, n: int, output: Any, is_list: bool) -> None:
    ended, said = slot.predict(do, n)
    assert 0 < ended.pop("took") < 10
    assert ended == {"state": "succeeded", "output": output, "is_list": is_list, "error": "", "metrics": {}, "streamed": 0} and said == []


@pytest.mark.parametrize("n", [0, 1, 300])
@pytest.mark.parametrize(("do", "item"), [("stream", lambda i: f"token {i}"), ("agen", lambda i: i)])
def test_what_is_yielded(slot: Asked, do: str, item: Callable[[int], Any], n: int) -> None:
    ended, said = slot.predict(do, n)
    assert outputs_of(said) == [item(i) for i in range(n)]
    assert ended["state"] == "succeeded" and ended["is_list"] and ended["output"] is None and ended["streamed"] == n


def test_large_and_deep_items(slot: Asked) -> None:
    _, said = slot.predict("large", 300_000)
    deep: Any = 300_000
    for _ in range(10):
        deep = [deep]
    assert outputs_of(said) == ["ä" * 300_000, {"deep": deep}]


def test_what_was_yielded_before_it_failed(slot: Asked) -> None:
    ended, said = slot.predict("fails_late")
    assert ended["state"] == "failed" and ended["error"] == "after one" and ended["streamed"] == 1 and outputs_of(said) == [1]


def test_ten_thousand_items(slot: Asked) -> None:
    _, said = slot.predict("stream", 10_000)
    assert outputs_of(said) == [f"token {i}" for i in range(10_000)]


# -- logs ------------------------------------------------------------------------------------------------------------------------


def test_all_that_was_printed_comes_before_the_result(slot: Asked) -> None:
    assert slot.logs("lines", 20_000) == "".join(f"line {i} of a prediction that says a lot\n" for i in range(20_000))


def test_prints_children_and_c_code(slot: Asked) -> None:
    assert sorted(slot.logs("mixed").replace("unfinished", "").splitlines()) == ["C", "child", "print"]
    assert "unfinished" in slot.logs("mixed")


def test_nothing_is_shown_in_the_next_prediction(slot: Asked) -> None:
    assert slot.logs("late") == "early\n"
    assert slot.logs("lines", 3000).count("\n") == 3000
    assert "late" not in slot.logs("mixed")


# -- ends ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("do", "error", "logged"), [
    ("raises", "no good", "ValueError: no good"), ("exits", "sys.exit(3)", "SystemExit: 3"),
    ("ctrl_c", "KeyboardInterrupt", "KeyboardInterrupt"), ("nan", "output['a'][0] is nan", "")])
def test_a_failure_is_the_predictions_and_not_the_slots(slot: Asked, do: str, error: str, logged: str) -> None:
    pid = slot.predict("pid")[0]["output"]
    ended, said = slot.predict(do)
    assert ended["state"] == "failed" and error in ended["error"] and logged in logs_of(said) and "soma/serve" not in logs_of(said)
    assert slot.predict("pid")[0]["output"] == pid


@pytest.mark.parametrize(("do", "n", "said"), [("dies", 7, "7"), ("crashes", 1, "SIGSEGV")])
def test_a_death_is_explained(folder: Path, do: str, n: int, said: str) -> None:
    slot = Asked(Source(file=str(folder / "predict.py"), name="Predictor"))
    heard: list[dict[str, Any]] = []
    with pytest.raises(ActorDiedError, match=said) as e:
        get(slot.begin(do, n, heard.append))
    if do == "crashes":
        assert "in crashes" in str(e.value), "the stack of the crash"
    else:
        assert logs_of(heard) == "last words\n"


def test_a_setup_that_ends_its_process(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text("import os\nfor i in range(1000):\n  print(i)\nos._exit(3)")
    said: list[Any] = []
    with pytest.raises(ActorDiedError, match="3"):
        get(Slot.remote(Source(file=str(tmp_path / "predict.py"))).setup.options(listener=said.append).remote())
    assert logs_of(said) == "".join(f"{i}\n" for i in range(1000))


def test_a_child_that_comes_out_of_a_prediction(slot: Asked) -> None:
    ended, said = slot.predict("forks", 5)
    assert ended["output"] == 5 and "parent\n" in logs_of(said)
    assert slot.predict("forks_and_exits")[0]["output"] == 4
    assert slot.predict("same", 6)[0]["output"] == 6


def test_state_stays(slot: Asked) -> None:
    before = slot.predict("counted", 0)[0]["output"]
    assert [slot.predict("counted", 2)[0]["output"] for _ in range(3)] == [before + 2, before + 4, before + 6]


def test_after_hundreds_nothing_is_left(slot: Asked) -> None:
    before = slot.predict("environment")[0]["output"]
    for i in range(100):
        get([slot.begin(do, 5) for do in ("same", "stream", "raises", "mixed", "writes")])
        slot.predict("reads", input={"file": "data:,text"}, id=f"../../{i}")
    after = slot.predict("environment")[0]["output"]
    assert after["fds"] <= before["fds"] + 1 and after["threads"] == before["threads"] and after["tmp"] == []


# -- cancels ---------------------------------------------------------------------------------------------------------------------


def ended_after_cancel(ref: Any) -> str:
    soma.cancel(ref)
    try:
        ended = get(ref)
        return str(ended["state"]) + ended["error"]
    except TaskCancelledError:
        return "canceled"


@pytest.mark.parametrize(("do", "logged"), [("sleeps", "begun\ncleaning up\nat last\n"), ("sleeps_between", "begun\ncleaning up\n"),
                                            ("async_sleeps", "begun\nat last\n")])
def test_a_cancel_runs_the_users_clean_up(slot: Asked, do: str, logged: str) -> None:
    pid = slot.predict("pid")[0]["output"]
    with slot.running(do) as (ref, said):
        assert ended_after_cancel(ref) == "canceled"
    assert slot.predict("pid")[0]["output"] == pid
    assert logs_of(said) == logged


def test_a_cancel_that_is_swallowed(slot: Asked) -> None:
    """What comes then is a result; the front end has ended the prediction before."""
    with slot.running("swallows") as (ref, _):
        assert ended_after_cancel(ref) in ("succeeded", "canceled")
    assert slot.logs("mixed")


def test_cancels_at_any_moment_break_nothing(slot: Asked) -> None:
    """Right after they were sent: before, at the beginning, in the middle and at the end of short predictions."""
    pid = slot.predict("pid")[0]["output"]
    for i in range(150):
        ref = slot.begin(("same", "mixed", "stream", "writes", "coroutine")[i % 5], i)
        if i % 3:
            soma.wait([ref], timeout=i * 2e-5)
        assert ended_after_cancel(ref) in ("succeeded", "canceled")
        ended, said = slot.predict("stream", 3)
        assert ended["state"] == "succeeded" and outputs_of(said) == [f"token {i}" for i in range(3)] and not logs_of(said)
    assert slot.logs("lines", 2) == "line 0 of a prediction that says a lot\nline 1 of a prediction that says a lot\n"
    assert slot.predict("pid")[0]["output"] == pid


def test_a_cancel_while_a_file_is_fetched(slot: Asked) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        ref = slot.begin("reads", input={"file": f"http://127.0.0.1:{server.getsockname()[1]}/x"})
        connection, _ = server.accept()
        with connection:
            assert ended_after_cancel(ref) == "canceled"
    assert slot.predict("same", 2)[0]["output"] == 2


# -- files, metrics, trainings -----------------------------------------------------------------------------------------------------


def test_files_in_and_out(slot: Asked) -> None:
    text, path = slot.predict("reads", input={"file": "data:text/plain,hello"}, id="/etc/x")[0]["output"]
    assert text == "hello" and not os.path.exists(path) and not os.path.exists(os.path.dirname(os.path.dirname(path))) and "etc" not in path
    assert slot.predict("writes")[0]["output"] == ["data:text/plain;base64,bWFkZQ=="] * 2
    ended = slot.predict("missing")[0]
    assert ended["state"] == "failed" and "/nowhere/out.txt" in ended["error"]
    ended = slot.predict("reads", input={"file": "file:///etc/passwd"})[0]
    assert ended["state"] == "failed" and ended["error"].startswith("input 'file': ")


def test_metrics(slot: Asked) -> None:
    ended, said = slot.predict("metrics", 3, context={"traceparent": "00-a-b-00"})
    assert ended["output"] == "00-a-b-00"
    assert ended["metrics"] == {"tokens": {"out": 3}, "temperature": 0.5, "shape": [1, 2], "threads": 1}
    assert said[0] == {"kind": "metric", "name": "tokens.out", "value": 1, "mode": "increment"} and len(said) == 5
    assert "reserved" in slot.predict("wrong_metric")[0]["error"]


def test_training(slot: Asked) -> None:
    said: list[Any] = []
    ended = get(slot.handle.predict.options(listener=said.append).remote(*Job("t", {"n": 3}, kind="training")))
    assert ended["output"] == {"weights": 3} and ended["metrics"] == {"loss": 0.5} and logs_of(said) == "training\n"


# -- what is not a file ------------------------------------------------------------------------------------------------------------


class Doubler:
    def __init__(self, by: int) -> None:
        self.by = by

    def predict(self, do: str, n: int) -> int:
        return n * self.by


class Refuses:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("cannot be made here")


@soma.filter
class Shift:
    def fit(self, x: Any, y: Any = None) -> Any:
        return {"by": float(np.mean(x))}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["by"]


class Forward:
    def forward(self, x: Any) -> Any:
        return x * 2


def test_instances_classes_and_functions() -> None:
    by = 3

    def predict(do: str, n: int) -> int:
        print("in a function")
        return n * by

    for value in (Doubler(3), soma.put(Doubler(3)), predict, soma.put(predict)):
        assert Asked(Source(value=value)).predict("x", 4)[0]["output"] == 12


def test_filters_and_handles() -> None:
    fitted = Asked(Source(value=soma.put(Shift()), state={"by": 1.5}))
    assert fitted.setup["ok"], fitted.setup["logs"]
    assert get(fitted.handle.predict.remote(*Job("x", {"x": [1, 2, 3]})))["output"] == [-0.5, 0.5, 1.5]
    assert get(Asked(Source(value=Forward())).handle.predict.remote(*Job("x", {"x": [1, 2]})))["output"] == [2, 4]
    actor = soma.remote(Forward).remote()
    assert get(Asked(Source(value=actor)).handle.predict.remote(*Job("x", {"x": [[1.0], [2.0]]})))["output"] == [[2.0], [4.0]]


def test_a_value_that_cannot_be_made_is_a_failed_setup() -> None:
    told = get(Slot.remote(Source(value=soma.put(Refuses()))).setup.remote())
    assert not told["ok"] and "cannot be made here" in told["error"] and "Traceback" in told["logs"]


COG = """
    from typing import Optional
    from cog import BaseModel, BasePredictor, CancelationException, ConcatenateIterator, Input, Path, Secret, current_scope

    class Output(BaseModel):
        text: str
        file: Path

    class Predictor(BasePredictor):
        def setup(self, weights=None):
            self.greeting = "hello"

        def predict(self, do: str = Input(description="whom", default="world"), n: int = Input(ge=1, le=10, default=2),
                    image: Optional[Path] = Input(default=None), key: Secret = Input(default=None)) -> Output:
            self.record_metric("tokens", n)
            Path("out.txt").write_text("made")
            print("key", key)
            return Output(text=f"{self.greeting} {do} {image.read_text()} {key.get_secret_value()}", file=Path("out.txt"))

    class Stream(BasePredictor):
        def predict(self, do: str, n: int) -> ConcatenateIterator[str]:
            try:
                yield from ["a", "b"]
                print("begun", flush=True)
                while True:
                    pass
            except CancelationException:
                print("cleaning up")
                raise
"""


def test_a_cog_predictor(tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text(textwrap.dedent(COG))
    slot = Asked(Source(file=str(tmp_path / "predict.py"), name="Predictor"))
    assert slot.setup["ok"], slot.setup["logs"]
    assert [p["name"] for p in slot.setup["signature"]["parameters"]] == ["do", "n", "image", "key"]
    ended, said = slot.predict("you", 3, input={"image": "data:,content", "key": "secret"})
    assert ended["output"] == {"text": "hello you content secret", "file": "data:text/plain;base64,bWFkZQ=="}
    assert ended["metrics"] == {"tokens": 3} and logs_of(said) == "key **********\n"
    slot = Asked(Source(file=str(tmp_path / "predict.py"), name="Stream"))
    assert slot.setup["signature"]["output"]["kind"] == "concatenate"
    with slot.running("x") as (ref, said):
        assert ended_after_cancel(ref) == "canceled"
    assert outputs_of(said) == ["a", "b"] and logs_of(said) == "begun\ncleaning up\n"


# -- coroutines --------------------------------------------------------------------------------------------------------------------

ASYNC = """
    import asyncio

    class Predictor:
        async def setup(self):
            await asyncio.sleep(0)
            self.begun = asyncio.Event()
            print("set up")

        async def predict(self, do: str, n: int = 1):
            if do == "sleeps":
                try:
                    print("begun")
                    await asyncio.sleep(60)  # workload
                finally:
                    print("at last")
            if do == "raises":
                raise ValueError("no good")
            if do == "cancels":
                raise asyncio.CancelledError("its own")
            for i in range(50):
                print(f"{n}:{i}")
                await asyncio.sleep(0)
            return n

        async def healthcheck(self):
            return True

    class Streamer:
        async def predict(self, do: str, n: int):
            try:
                for i in range(n):
                    yield i
                    await asyncio.sleep(0)
                print("begun")
                if do == "sleeps":
                    await asyncio.sleep(60)  # workload
            finally:
                print("at last")
"""


@pytest.fixture(scope="module")
def async_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("served") / "predict.py"
    path.write_text(textwrap.dedent(ASYNC))
    return str(path)


def test_several_at_once_print_apart(async_file: str) -> None:
    slot = Asked(Source(file=async_file, name="Predictor"), AsyncSlot)
    assert slot.setup["ok"] and slot.setup["is_async"] and slot.setup["logs"] == "set up\n"
    said: list[list[Any]] = [[] for _ in range(8)]
    with slot.running("sleeps") as (sleeping, heard):
        ended = get([slot.begin("prints", n, mine.append) for n, mine in enumerate(said)])
        assert get(slot.handle.healthcheck.remote()) == {"ok": True, "error": ""}
        assert slot.predict("raises")[0]["error"] == "no good" and "ValueError: no good" in slot.logs("raises")
        assert slot.predict("cancels")[0]["state"] == "failed", "nobody asked for it"
        assert ended_after_cancel(sleeping) == "canceled"
    assert [e["output"] for e in ended] == list(range(8))
    assert [logs_of(mine) for mine in said] == ["".join(f"{n}:{i}\n" for i in range(50)) for n in range(8)]
    assert slot.predict("prints", 3)[0]["output"] == 3
    assert logs_of(heard) == "begun\nat last\n"


def test_asynchronous_generators(async_file: str) -> None:
    slot = Asked(Source(file=async_file, name="Streamer"), AsyncSlot)
    ended, said = slot.predict("streams", 300)
    assert outputs_of(said) == list(range(300)) and ended["streamed"] == 300 and logs_of(said) == "begun\nat last\n"
    with slot.running("sleeps") as (ref, said):
        assert ended_after_cancel(ref) == "canceled"
    assert slot.predict("streams", 2)[0]["state"] == "succeeded" and logs_of(said) == "begun\nat last\n"


# -- health ------------------------------------------------------------------------------------------------------------------------


class Patient:
    """Its health is in a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def healthcheck(self) -> bool:
        with open(self.path) as file:
            said = file.read()
        if said == "raise":
            raise OSError("the device is gone")
        return said == "well"

    def predict(self, do: str, n: int) -> int:
        with open(self.path + ".go"):
            return n


def test_a_busy_slot_is_asked_for_its_health(tmp_path: Path) -> None:
    path = tmp_path / "health"
    os.mkfifo(f"{path}.go")
    board = soma.remote(HealthBoard).remote()
    slot = Asked(Source(value=Patient(str(path))), Slot, board, "0")
    assert slot.setup["has_healthcheck"], slot.setup
    path.write_text("well")
    busy = slot.begin("waits", 5)
    assert get([board.ask.remote("0") for _ in range(3)]) == [{"ok": True, "error": ""}] * 3
    path.write_text("ill")
    assert get(board.ask.remote("0")) == {"ok": False, "error": "the healthcheck returned False"}
    path.write_text("raise")
    assert "the device is gone" in get(board.ask.remote("0"))["error"]
    with open(f"{path}.go", "w"):
        assert get(busy)["output"] == 5
    path.unlink()
    os.mkfifo(path)
    asked = board.ask.remote("0")  # the healthcheck now takes its time
    busy = slot.begin("waits", 6)
    with open(f"{path}.go", "w"):
        assert get(busy)["output"] == 6
    path.write_text("well")
    assert get(asked)["ok"]


def test_a_slot_that_is_gone_says_nothing_about_its_health() -> None:
    board = soma.remote(HealthBoard).remote()
    asked = board.ask.remote("0")
    get(board.drop.remote("0"))
    assert get(asked) == {"ok": False, "error": "the process of the slot is gone"}
