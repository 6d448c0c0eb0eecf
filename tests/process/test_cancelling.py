"""Cancelling: calls that wait, run, sleep, stream, or run in threads and coroutines; by request, by force, by a time limit."""

import asyncio
import importlib
import os
import sys
import threading
import time

import pytest

import soma
from soma.errors import ActorDiedError, GetTimeoutError, TaskCancelledError

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]

BOUND = 2.0


class Sleeper:
    def __init__(self):
        self.log = []

    def nap(self, begun=None):
        if begun is not None:
            open(begun, "w").close()  # a pipe with a name: waits for who opened it to read
        time.sleep(60)  # workload

    def spin(self, begun):
        open(begun, "w").close()
        while True:
            pass

    def note(self, what):
        self.log.append(what)
        return list(self.log)

    def count(self, n):
        yield from range(n)

    def nested(self, ref):
        return soma.get(ref[0])

    def pid(self):
        return os.getpid()


class AsyncSleeper:
    def __init__(self):
        self.cleaned = []

    async def nap(self, begun=None):
        try:
            if begun is not None:
                await asyncio.get_running_loop().run_in_executor(None, lambda: open(begun, "w").close())
            await asyncio.sleep(60)  # workload
        finally:
            self.cleaned.append("nap")

    async def note(self, what):
        return [*self.cleaned, what]

    async def block(self, begun, go):
        open(begun, "w").close()
        open(go).close()  # the event loop does nothing else meanwhile

    async def count(self, n):
        for i in range(n):
            yield i


class Importer:
    def __init__(self, path):
        sys.path.insert(0, path)

    def load(self, name, stay):
        done = importlib.import_module(name).DONE
        while stay:
            time.sleep(0.001)  # workload
        return done

    def importing(self):
        return sum(frame.f_code.co_filename.startswith("<frozen importlib") for frame in sys._current_frames().values())


@pytest.fixture
def begun(tmp_path):
    path = tmp_path / "begun"
    os.mkfifo(path)
    return path


def has_begun(path):
    open(path).close()


def assert_cancelled(ref):
    began = time.monotonic()
    with pytest.raises(TaskCancelledError):
        soma.get(ref, timeout=10)
    assert time.monotonic() - began < BOUND


KINDS = {"serial": soma.remote(Sleeper), "threaded": soma.remote(max_concurrency=2)(Sleeper), "async": soma.remote(AsyncSleeper)}


@pytest.mark.parametrize("kind", ["serial", "async"])
def test_a_sleeping_call(kind, begun):
    actor = KINDS[kind].remote()
    nap = actor.nap.remote(begun)
    has_begun(begun)
    soma.cancel(nap)
    assert_cancelled(nap)
    assert soma.get(actor.note.remote("on"), timeout=5)[-1] == "on"


@pytest.mark.parametrize("kind", ["serial", "threaded"])
def test_a_busy_call(kind, begun):
    actor = KINDS[kind].remote()
    spin = actor.spin.remote(begun)
    has_begun(begun)
    soma.cancel(spin)
    assert_cancelled(spin)
    assert soma.get(actor.note.remote("on"), timeout=5) == ["on"]


@pytest.mark.parametrize("kind", ["serial", "threaded", "async"])
def test_calls_that_wait_for_their_turn(kind):
    actor = KINDS[kind].options(max_concurrency=1 if kind != "threaded" else 2).remote()
    naps = [actor.nap.remote() for _ in range(2)]
    queued = [actor.note.remote(n) for n in range(5)]
    for ref in [*queued[1::2], *naps]:
        soma.cancel(ref)
    for ref in queued[1::2]:
        assert_cancelled(ref)
    if kind == "threaded":  # asleep in C: what was told to end comes back only then
        soma.kill(actor)
        return
    for nap in naps:
        assert_cancelled(nap)
    assert soma.get(queued[::2], timeout=5)[-1][-1] == 4


@pytest.mark.parametrize("kind", ["serial", "threaded"])
def test_a_call_that_waits_for_another(kind):
    slow, actor = KINDS["serial"].remote(), KINDS[kind].remote()
    nap = slow.nap.remote()
    outer = actor.nested.remote([nap])
    assert not soma.wait([outer], timeout=0.1)[0]
    soma.cancel(outer)
    assert_cancelled(outer)
    assert soma.get(actor.note.remote("on"), timeout=5) == ["on"]
    soma.cancel(nap)
    assert_cancelled(nap)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_a_stream_frees_its_producer(kind):
    actor = KINDS[kind].options(max_concurrency=2 if kind == "threaded" else 1).remote()
    streams = [actor.count.options(num_returns="streaming").remote(10**9) for _ in range(2)]
    for stream in streams[: 2 if kind == "threaded" else 1]:
        assert soma.get(next(stream), timeout=5) == 0
    del stream
    streams.clear()
    assert soma.get(actor.note.remote("on"), timeout=5)[-1] == "on"


@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_a_stream(kind):
    actor = KINDS[kind].remote()
    stream = actor.count.options(num_returns="streaming").remote(10**9)
    assert soma.get(next(stream), timeout=5) == 0
    soma.cancel(stream)
    with pytest.raises(TaskCancelledError):
        for ref in stream:
            soma.get(ref, timeout=5)
    assert soma.get(actor.note.remote("on"), timeout=5)[-1] == "on"


def test_cancelling_what_has_ended_changes_nothing():
    actor = KINDS["serial"].remote()
    ref = actor.note.remote(1)
    assert soma.get(ref, timeout=5) == [1]
    soma.cancel(ref)
    soma.cancel(ref, force=True)
    assert soma.get(ref) == [1]
    assert soma.get(actor.note.remote(2), timeout=5) == [1, 2]


def test_force_ends_the_process(begun):
    actor = KINDS["threaded"].options(max_restarts=1).remote()
    first = soma.get(actor.pid.remote(), timeout=10)
    nap = actor.nap.remote(begun)
    has_begun(begun)
    soma.cancel(nap, force=True)
    with pytest.raises((TaskCancelledError, ActorDiedError)) as caught:
        soma.get(nap, timeout=BOUND)
    if isinstance(caught.value, ActorDiedError):
        assert caught.value.reason == "cancelled"
    assert soma.get(actor.pid.remote(), timeout=5) != first


def test_a_time_limit_cancels():
    actor = KINDS["serial"].remote()
    began = time.monotonic()
    nap = actor.nap.options(timeout=0.2).remote()
    with pytest.raises(GetTimeoutError):
        soma.get(nap)
    assert 0.2 <= time.monotonic() - began < 1.0
    assert soma.get(actor.note.remote("on"), timeout=5) == ["on"]


@pytest.mark.parametrize("force", [False, True])
def test_tasks(force, begun):
    @soma.remote
    def nap(path):
        open(path, "w").close()
        time.sleep(60)  # workload

    @soma.remote
    def same(x):
        return x

    ref = nap.remote(begun)
    has_begun(begun)
    soma.cancel(ref, force=force)
    assert_cancelled(ref)
    waiting = [nap.remote(begun) for _ in range(20)]
    for ref in waiting[4:]:
        soma.cancel(ref)
        assert_cancelled(ref)
    for ref in waiting[:4]:
        soma.cancel(ref, force=True)
    assert soma.get(same.remote(3), timeout=10) == 3


def test_cancel_while_many_threads_call():
    """Interrupts of other calls tear nothing apart: every call that was not cancelled has its own answer."""
    actor = soma.remote(max_concurrency=8)(Sleeper).remote()
    helper = KINDS["serial"].remote()
    wrong = []

    def work(n):
        for i in range(60):
            ref = actor.nested.remote([helper.pid.remote()])
            if i % 3 == n % 3:
                soma.cancel(ref)
            try:
                if soma.get(ref, timeout=10) != pid:
                    wrong.append(ref)
            except TaskCancelledError:
                if i % 3 != n % 3:
                    wrong.append(ref)
            except BaseException as e:
                wrong.append(e)

    pid = soma.get(helper.pid.remote(), timeout=10)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert wrong == []


def test_coroutines_that_have_not_begun(begun, tmp_path):
    """Call and cancel come together to an event loop that is busy."""
    os.mkfifo(tmp_path / "go")
    actor = KINDS["async"].remote()
    block = actor.block.remote(begun, tmp_path / "go")
    has_begun(begun)
    notes = [actor.note.remote(n) for n in range(5)]
    assert not soma.wait(notes, timeout=0.1)[0]  # they are there by now
    for ref in notes:
        soma.cancel(ref)
    assert not soma.wait(notes, timeout=0.1)[0]
    open(tmp_path / "go", "w").close()
    for ref in notes:
        assert_cancelled(ref)
    assert soma.get([block, actor.note.remote("on")], timeout=5) == [None, ["on"]]


def test_calls_that_wait_for_the_import_of_another(begun, tmp_path):
    """Their interrupts leave the module's lock to whoever comes next."""
    (tmp_path / "slow_to_import.py").write_text(f"open({str(begun)!r}, 'w').close()\nopen({str(tmp_path / 'go')!r}).close()\nDONE = 1\n")
    os.mkfifo(tmp_path / "go")
    actor = soma.remote(max_concurrency=8)(Importer).remote(str(tmp_path))
    first = actor.load.remote("slow_to_import", False)
    has_begun(begun)
    cancelled = [actor.load.remote("slow_to_import", True) for _ in range(3)]
    last = [actor.load.remote("slow_to_import", False) for _ in range(3)]
    while soma.get(actor.importing.remote(), timeout=5) < 6:
        pass
    for ref in cancelled:
        soma.cancel(ref)
    assert not soma.wait(cancelled, timeout=0.2)[0]  # they hear of it meanwhile
    open(tmp_path / "go", "w").close()
    assert soma.get([first, *last], timeout=10) == [1] * 4
    for ref in cancelled:
        assert_cancelled(ref)
    assert soma.get(actor.load.remote("slow_to_import", False), timeout=5) == 1


def test_a_call_that_waits_for_its_argument():
    slow, fast = soma.remote(Sleeper).remote(), soma.remote(Sleeper).remote()
    nap = slow.nap.remote()
    waits = fast.note.remote(nap)
    soma.wait([waits], timeout=0.2)  # it waits by now
    began = time.monotonic()
    soma.cancel(waits)
    with pytest.raises(TaskCancelledError):
        soma.get(waits, timeout=10)
    assert time.monotonic() - began < BOUND
    assert soma.get(fast.note.remote("next"), timeout=10) == ["next"]
    soma.cancel(nap)
