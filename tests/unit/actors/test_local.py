"""What only the `local=True` engine promises: when calls run, in which thread, and that no wait lasts for ever."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import soma


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    with soma.init(num_cpus=2, local=True):
        yield


@soma.remote
class Node:
    def chain(self, *others: Any) -> Any:
        return soma.get(others[0].chain.remote(*others[1:])) if others else "end"

    def where(self) -> tuple[int, int]:
        return os.getpid(), threading.get_ident()

    def endless(self) -> Iterator[int]:
        while True:
            yield 1

    def interrupt(self) -> None:
        raise KeyboardInterrupt


def test_a_call_runs_inside_remote_in_the_callers_thread() -> None:
    seen = []
    stop = soma.on_event(lambda e: seen.append(type(e).__name__))
    node = Node.remote()
    assert seen == ["ActorStarted"]
    assert soma.get(node.where.remote()) == (os.getpid(), threading.get_ident())
    stop()


def test_a_cycle_of_waits_is_named() -> None:
    a, b, c = (Node.options(name=n).remote() for n in "abc")
    assert soma.get(a.chain.remote(b, c)) == "end"
    with pytest.raises(soma.DeadlockError, match="Node.chain of actor Node 'a' .* waits for .*'b'.* waits for .*'c'.* waits for .*'a'"):
        soma.get(a.chain.remote(b, c, a))
    assert soma.get(a.chain.remote()) == "end"


def test_waiting_for_oneself_in_a_coroutine_is_an_error_too() -> None:
    @soma.remote(max_concurrency=1)
    class Selfish:
        async def wait(self) -> Any:
            return await soma.get_runtime_context().current_actor.ping.remote()

        async def ping(self) -> str:
            return "pong"

    selfish = Selfish.remote()
    with pytest.raises(soma.DeadlockError):
        soma.get(selfish.wait.remote())
    assert asyncio.run(_wait_for(selfish.ping.remote())) == "pong"


async def _wait_for(ref: Any) -> Any:
    return await ref


def test_an_actor_serves_one_thread_at_a_time() -> None:
    inside, go_on = threading.Event(), threading.Event()

    @soma.remote
    class Gate:
        def hold(self) -> str:
            inside.set()  # in this process: the class is used as it is
            assert go_on.wait(10)
            return "held"

        def ping(self) -> str:
            return "pong"

    gate = Gate.remote()
    refs: list[Any] = []
    thread = threading.Thread(target=lambda: refs.append(gate.hold.remote()))
    thread.start()
    assert inside.wait(10)
    later = gate.ping.remote()
    with pytest.raises(soma.GetTimeoutError):
        soma.get(later, timeout=0)
    assert soma.wait([later], timeout=0) == ([], [later])
    soma.cancel(later)
    with pytest.raises(soma.TaskCancelledError):
        soma.get(later)
    last = gate.ping.remote()
    go_on.set()
    assert soma.get(last, timeout=10) == "pong"
    thread.join()
    assert soma.get(refs[0]) == "held"


def test_a_call_behind_an_endless_stream_can_time_out() -> None:
    node = Node.remote()
    stream = node.endless.remote()
    behind = node.where.remote()
    with pytest.raises(soma.GetTimeoutError):
        soma.get(behind, timeout=0.01)
    soma.cancel(stream)
    assert soma.get(behind)[0] == os.getpid()
    with pytest.raises(soma.TaskCancelledError):
        for ref in stream:
            soma.get(ref)


def test_ctrl_c_reaches_the_caller_and_the_actor_goes_on() -> None:
    node = Node.remote()
    with pytest.raises(KeyboardInterrupt):
        node.interrupt.remote()
    assert soma.get(node.where.remote())[0] == os.getpid()


def test_what_is_left_after_shutdown() -> None:
    node = Node.remote()
    ref, stream = node.where.remote(), node.endless.remote()
    soma.shutdown()
    with pytest.raises(soma.NotInitializedError):
        ref.future().result(timeout=10)
    with pytest.raises(soma.NotInitializedError):
        next(stream)
    soma.shutdown()
    assert not soma.is_initialized()


def test_shutdown_inside_an_actor_is_refused() -> None:
    @soma.remote
    def end() -> None:
        soma.shutdown()

    with pytest.raises(RuntimeError, match="inside an actor"):
        soma.get(end.remote())


def test_values_leave_with_their_last_ref() -> None:
    refs = [soma.put(i) for i in range(100)]
    box = soma.put(refs[:10])
    del refs
    assert soma.status()["driver"]["refs"] == 11
    assert soma.get(soma.get(box)[3]) == 3
    del box
    soma.status()
    assert soma.status()["driver"]["refs"] == 0
