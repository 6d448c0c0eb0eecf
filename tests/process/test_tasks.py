"""Tasks whose workers die: what is repeated, what is freed, what others notice."""

import os
import signal
import sys
import time

import pytest

import soma
from soma.errors import ActorDiedError

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]


@soma.remote
def dies_once(path):
    """As a task: the first attempt kills its worker."""
    with open(path, "a") as f:
        f.write("x")
    if os.path.getsize(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(path)


@soma.remote
def answer(x=42):
    return x


def test_a_task_whose_worker_dies_is_repeated_only_if_asked(tmp_path):
    with pytest.raises(ActorDiedError) as caught:
        soma.get(dies_once.remote(tmp_path / "a"), timeout=10)
    assert caught.value.signal == "SIGKILL" and caught.value.executed == "maybe" and "dies_once" in str(caught.value)
    assert (tmp_path / "a").read_text() == "x"
    assert soma.get(dies_once.options(max_retries=2).remote(tmp_path / "b"), timeout=10) == 2


def test_dead_workers_take_nothing_with_them(tmp_path):
    """Neither other tasks nor the CPUs they had."""
    refs = [(dies_once.remote(tmp_path / str(n)), answer.remote(n)) for n in range(12)]
    assert soma.get([b for _, b in refs], timeout=20) == list(range(12))
    for doomed, _ in refs:
        with pytest.raises(ActorDiedError):
            soma.get(doomed, timeout=10)
    until = time.monotonic() + 5
    while soma.available_resources()["CPU"] != 4.0:
        assert time.monotonic() < until, soma.available_resources()


def test_idle_workers_that_are_killed_are_replaced():
    pids = set(soma.get([soma.remote(os.getpid).remote() for _ in range(8)], timeout=10))
    for worker in soma.status()["actors"]:
        if worker["task_worker"] and worker["pid"] in pids:
            os.kill(worker["pid"], signal.SIGKILL)
    assert soma.get([answer.remote(n) for n in range(20)], timeout=10) == list(range(20))


@pytest.mark.parametrize("how", ["exit", "segv", "oom", "raise"])
def test_tasks_end_in_every_way(how):
    def end(how):
        import ctypes

        if how == "exit":
            sys.exit(4)
        if how == "segv":
            ctypes.string_at(0)
        if how == "raise":
            raise KeyError("mine")
        hoard = [bytearray(b"x" * 2**24) for _ in range(30)]
        signal.pause()
        return hoard

    task = soma.remote(end).options(memory=200 * 2**20)
    if how == "raise":
        with pytest.raises(KeyError, match="mine"):
            soma.get(task.remote(how), timeout=10)
        return
    with pytest.raises(ActorDiedError) as caught:
        soma.get(task.remote(how), timeout=10)
    reason = {"exit": ("exited", None), "segv": ("signal", "SIGSEGV"), "oom": ("oom", "SIGKILL")}[how]
    assert (caught.value.reason, caught.value.signal) == reason
