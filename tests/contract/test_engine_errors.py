"""Errors: the user's own come back as themselves; what cannot travel is named; the actor lives."""

from __future__ import annotations

import asyncio
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import soma

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


class Refused(Exception):
    """With state of its own."""

    def __init__(self, code: int, *, why: str = "") -> None:
        super().__init__(code)
        self.code, self.why = code, why


class CannotLeave(Exception):
    def __init__(self) -> None:
        super().__init__("held by a lock")
        self.lock = threading.Lock()


class CannotArrive(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def fails_to_load() -> Any:
    raise ValueError("will not load")


class Unloadable:
    def __reduce__(self) -> Any:
        return fails_to_load, ()


class BadReduce:
    def __reduce__(self) -> Any:
        raise RuntimeError("reduce says no")


@soma.remote
class Server:
    def __init__(self) -> None:
        self.calls = 0

    def fail(self, kind: str) -> Any:
        if kind == "value":
            raise ValueError("wrong", 3)
        if kind == "chain":
            try:
                {}["missing"]
            except KeyError as e:
                raise Refused(7, why="chained") from e
        if kind == "base":
            raise BaseException("even this")
        raise {"leave": CannotLeave, "arrive": partial(CannotArrive, 1, 2), "speech": Speechless}[kind]()

    def give(self, kind: str) -> Any:
        return {"lock": threading.Lock, "deep": lambda: {"a": [1, threading.Lock()]}, "generator": lambda: (i for i in ()),
                "reduce": BadReduce, "unloadable": Unloadable}[kind]()

    def nest(self) -> Any:
        return soma.get(Server.remote().fail.remote("value"))

    def take(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1

    def count(self) -> int:
        return self.calls

    def ping(self) -> str:
        return "pong"


@pytest.fixture
def server() -> Any:
    return Server.options(name=None).remote()


def test_an_exception_comes_back_as_itself(server: Any) -> None:
    with pytest.raises(ValueError) as caught:
        get(server.fail.remote("value"))
    e = caught.value
    assert type(e) is ValueError and e.args == ("wrong", 3)
    assert isinstance(e.__cause__, soma.errors.RemoteTraceback)
    assert 'raise ValueError("wrong", 3)' in str(e.__cause__)
    assert any("Server" in note for note in e.__notes__)
    shown = "".join(traceback.format_exception(e))
    assert "in fail" in shown and "Server" in shown
    assert get(server.ping.remote()) == "pong"


def test_an_exception_keeps_its_attributes_and_its_chain_as_text(server: Any) -> None:
    with pytest.raises(Refused) as caught:
        get(server.fail.remote("chain"))
    assert (caught.value.code, caught.value.why) == (7, "chained")
    assert "KeyError: 'missing'" in str(caught.value.__cause__)


def test_each_get_raises_anew(server: Any) -> None:
    ref = server.fail.remote("value")
    seen = []
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            get(ref)
        seen.append((len(caught.value.__notes__), len(traceback.extract_tb(caught.value.__traceback__))))
    assert len(set(seen)) == 1


def test_one_error_in_a_list_is_raised(server: Any) -> None:
    with pytest.raises(ValueError, match="wrong"):
        get([server.ping.remote(), server.fail.remote("value"), server.ping.remote()])


def test_errors_of_tasks_and_nested_calls(server: Any) -> None:
    @soma.remote
    def divide(a: int, b: int) -> float:
        return a / b

    with pytest.raises(ZeroDivisionError) as caught:
        get(divide.remote(1, 0))
    assert "return a / b" in str(caught.value.__cause__)
    with pytest.raises(ValueError, match="wrong"):
        get(server.nest.remote())


def test_errors_by_future_and_await(server: Any) -> None:
    assert isinstance(server.fail.remote("value").future().exception(timeout=20), ValueError)

    async def main() -> None:
        await server.fail.remote("value")

    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(main())


def test_an_argument_that_failed_fails_the_call(server: Any) -> None:
    bad = server.fail.remote("value")
    with pytest.raises(ValueError, match="wrong"):
        get(server.take.remote(1, x=bad))
    assert get(server.count.remote()) == 0


def test_base_exceptions_do_not_end_the_actor(server: Any) -> None:
    with pytest.raises(BaseException, match="even this") as caught:
        get(server.fail.remote("base"))
    assert type(caught.value) is BaseException
    assert get(server.ping.remote()) == "pong"


@pytest.mark.parametrize(("kind", "name", "words"), [
    ("leave", "CannotLeave", "held by a lock"), ("arrive", "CannotArrive", "1 and 2")])
def test_exceptions_that_cannot_travel(server: Any, kind: str, name: str, words: str) -> None:
    with pytest.raises(soma.ActorTaskError) as caught:
        get(server.fail.remote(kind))
    e = caught.value
    assert e.type_name.endswith(name) and words in e.message and "in fail" in e.traceback_text
    assert name in str(e) and get(server.ping.remote()) == "pong"


def test_an_exception_without_words(server: Any) -> None:
    with pytest.raises((Speechless, soma.ActorTaskError)):
        get(server.fail.remote("speech"))
    assert get(server.ping.remote()) == "pong"


class Holder:
    def __init__(self) -> None:
        self.net = {"w": [0, threading.Lock()]}


@pytest.mark.parametrize(("call", "path"), [
    (lambda s: s.take.remote(threading.Lock()), "args[0]"),
    (lambda s: s.take.remote(1, [0, {"k": threading.Lock()}]), "args[1][1]['k']"),
    (lambda s: s.take.remote(x=threading.Lock()), "kwargs['x']"),
    (lambda s: s.take.remote(Holder()), "args[0].net['w'][1]"),
])
def test_an_argument_that_cannot_be_pickled_raises_at_the_call(server: Any, call: Any, path: str) -> None:
    with pytest.raises(soma.ArgumentNotSerializableError, match="lock") as caught:
        call(server)
    assert caught.value.path == path
    assert isinstance(caught.value, TypeError)
    assert get(server.count.remote()) == 0


def test_a_constructors_argument_that_cannot_be_pickled() -> None:
    @soma.remote
    class Takes:
        def __init__(self, x: Any) -> None:
            pass

    with pytest.raises(soma.ArgumentNotSerializableError) as caught:
        Takes.remote([threading.Lock()])
    assert caught.value.path == "args[0][0]"


@pytest.mark.parametrize(("kind", "words"), [
    ("lock", "lock"), ("deep", r"\['a'\]\[1\]"), ("generator", "generator"), ("reduce", "reduce says no")])
def test_a_result_that_cannot_be_pickled(server: Any, kind: str, words: str) -> None:
    with pytest.raises(soma.ResultNotSerializableError, match=words):
        get(server.give.remote(kind))
    assert get(server.ping.remote()) == "pong"


def test_a_value_that_cannot_be_unpickled(server: Any) -> None:
    with pytest.raises(soma.DecodeError, match="will not load"):
        get(server.give.remote("unloadable"))
    with pytest.raises(soma.DecodeError, match="will not load"):
        get(server.take.remote(Unloadable()))
    assert get(server.count.remote()) == 0


def test_infeasible_requests_fail_at_once(server: Any) -> None:
    for options in ({"num_cpus": 64}, {"num_gpus": 1000}, {"resources": {"license": 3}}, {"resources": {"unheard of": 1}}):
        with pytest.raises(soma.PlacementError, match="64|1000|license|unheard of"):
            get(Server.options(**options).remote().ping.remote())

    @soma.remote(num_cpus=64)
    def big() -> None: ...

    with pytest.raises(soma.PlacementError, match="64"):
        get(big.remote())


def test_feasible_resources(server: Any) -> None:
    a = Server.options(resources={"license": 1}, num_cpus=1).remote()
    assert get(a.ping.remote()) == "pong"
    total, left = soma.cluster_resources(), soma.available_resources()
    assert total["CPU"] == 4 and total["license"] == 2 and left["license"] == 1 and left["CPU"] <= 3


@pytest.mark.parametrize(("options", "attempts"), [
    ({}, 1), ({"max_task_retries": 2}, 1), ({"max_task_retries": 2, "retry_exceptions": True}, 3),
    ({"max_task_retries": 2, "retry_exceptions": [ValueError]}, 3), ({"max_task_retries": 2, "retry_exceptions": [KeyError]}, 1),
    ({"retry_exceptions": True}, 1),
])
def test_retries_of_methods(tmp_path: Path, options: dict[str, Any], attempts: int) -> None:
    @soma.remote
    class Flaky:
        def fail(self, path: str) -> None:
            with open(path, "a") as f:
                f.write(f"{soma.get_runtime_context().attempt}\n")
            raise ValueError("again")

    log = tmp_path / "log"
    with pytest.raises(ValueError, match="again"):
        get(Flaky.options(**options).remote().fail.remote(str(log)))
    assert log.read_text().split() == [str(i) for i in range(attempts)]


def test_retries_of_tasks_end_with_success(tmp_path: Path) -> None:
    @soma.remote(max_retries=5, retry_exceptions=True)
    def third_time(path: str) -> int:
        with open(path, "a+") as f:
            f.write("x")
            f.seek(0)
            n = len(f.read())
        if n < 3:
            raise ValueError(n)
        return n

    assert get(third_time.remote(str(tmp_path / "log"))) == 3
