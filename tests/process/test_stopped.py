"""A process stopped by SIGSTOP is seen to be stopped, loses nothing, and can be killed."""

from __future__ import annotations

import os
import queue
import signal
import sys

import numpy as np
import pytest

import soma
from soma.events import ActorContinued, ActorStarted, ActorStopped, Event

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waitid with WSTOPPED for a child is tried on Linux only")


@soma.remote
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()


@soma.remote
class Keeper:
    def keep(self) -> int:
        self.ref = soma.put(np.ones(1_000_000))
        return os.getpid()


def states() -> list[str]:
    return [actor["state"] for actor in soma.status()["actors"]]


def test_stopping_is_said_and_nothing_is_lost_or_done_twice(cluster: None) -> None:
    said: queue.Queue[Event] = queue.Queue()
    end = soma.on_event(said.put)
    counter = Counter.remote()
    pid = soma.get(counter.pid.remote())
    assert isinstance(said.get(timeout=5), ActorStarted)

    os.kill(pid, signal.SIGSTOP)
    assert isinstance(said.get(timeout=3), ActorStopped)
    assert states() == ["stopped"]
    refs = [counter.add.remote() for _ in range(100)]
    with pytest.raises(soma.GetTimeoutError):
        soma.get(refs[0], timeout=0.1)

    os.kill(pid, signal.SIGCONT)
    assert isinstance(said.get(timeout=3), ActorContinued)
    assert soma.get(refs, timeout=10) == list(range(1, 101))
    assert states() == ["ready"]
    end()


def test_a_stopped_actor_can_be_killed(cluster: None) -> None:
    counter = Counter.remote()
    os.kill(soma.get(counter.pid.remote()), signal.SIGSTOP)
    ref = counter.add.remote()
    soma.kill(counter)
    with pytest.raises(soma.ActorDiedError) as caught:
        soma.get(ref, timeout=5)
    assert caught.value.reason == "killed"


def test_status_says_what_each_process_holds(cluster: None) -> None:
    keeper = Keeper.remote()
    pid = soma.get(keeper.keep.remote())
    mine = soma.put(bytearray(1000))
    status = soma.status()
    held = status["actors"][0]["holdings"]
    assert held["refs"] >= 1 and held["arena_used"] >= 8_000_000
    assert status["holdings"][status["drivers"][0]]["refs"] >= 1
    os.kill(pid, signal.SIGSTOP)
    assert soma.status()["actors"][0]["holdings"] is None  # it cannot say, and nobody waits for it
    os.kill(pid, signal.SIGCONT)
    del mine
