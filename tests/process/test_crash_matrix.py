"""Every phase of an actor's life × every way to end in it: each call settles in time and says why, and nobody else is harmed."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

import psutil
import pytest

import soma
from soma.errors import ActorDiedError, ActorInitError, DecodeError, GetTimeoutError, ResultNotSerializableError
from soma.events import ActorDied

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]

BOUND = 2.0
"""Seconds until a call must be settled: 100 ms promised, machines that are busy allowed for; a memory limit is seen within 250 ms."""
LIMIT = 200 * 2**20
HARMLESS = {"raise": "boom", "exit": "SystemExit"}
"""What a value does to who reads or writes it is its error, no more; and what that says."""
DEATHS = ["raise", "exit", "_exit", "segv", "kill", "stop", "oom"]


def die(how):
    match how:
        case "raise":
            raise ValueError("boom")
        case "exit":
            sys.exit(4)
        case "_exit":
            os._exit(3)
        case "segv":
            print("about to fault", file=sys.stderr)
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "oom":
            hoard = [bytearray(b"x" * (16 * 2**20)) for _ in range(30)]
            signal.pause()
            hoard.clear()


class DiesWhenRead:
    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return die, (self.how,)


class DiesWhenWritten:
    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        die(self.how)


@soma.remote(memory=LIMIT)
class Victim:
    def __init__(self, how=None, read=None):
        if how is not None:
            die(how)
        self.how = None

    def take(self, value):
        return value

    def run(self, how):
        die(how)

    def give(self, how):
        return DiesWhenWritten(how)

    def items(self, how, gate):
        yield 1
        yield 2
        open(gate).close()  # a pipe with a name: until the consumer opens it as well
        die(how)

    def arm(self, how):
        """Die soon, when idle: inside the wait for calls."""
        signal.signal(signal.SIGALRM, lambda *_: die(how))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return os.getpid()

    def pid(self):
        return os.getpid()


@pytest.fixture(scope="module")
def sibling(shared_cluster):
    """An actor that must not notice anything; and its pid."""
    handle = Victim.options(memory=0).remote()
    return handle, soma.get(handle.pid.remote(), timeout=10)


@pytest.fixture(autouse=True)
def sibling_unharmed(sibling):
    yield
    handle, pid = sibling
    assert soma.get(handle.pid.remote(), timeout=5) == pid


def failure_of(ref, victim, how, pid=None):
    """The exception of a call whose actor ended so; a stopped one is killed after its `get` came back in time."""
    if how == "stop":
        while pid is not None and psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            os.sched_yield()
        began = time.monotonic()
        with pytest.raises(GetTimeoutError):
            soma.get(ref, timeout=0.2)
        assert time.monotonic() - began < 1.0
        soma.kill(victim)
    began = time.monotonic()
    with pytest.raises(BaseException) as caught:
        soma.get(ref, timeout=10)
    assert time.monotonic() - began < BOUND
    return caught.value


def assert_explained(error, how, *, init=False):
    """A death says what it was."""
    assert isinstance(error, ActorInitError if init and how != "stop" else ActorDiedError), repr(error)
    match how:
        case "exit":
            assert (error.reason, error.exit_code, error.signal) == ("exited", 4, None)
        case "_exit":
            assert (error.reason, error.exit_code, error.signal) == ("exited", 3, None)
        case "segv":
            assert (error.reason, error.signal) == ("signal", "SIGSEGV")
            assert "about to fault" in error.cause.stderr_tail
            assert "Segmentation fault" in str(error) and "in die" in str(error)  # faulthandler's stack
        case "kill":
            assert (error.reason, error.signal) == ("signal", "SIGKILL")
        case "stop":
            assert error.reason == "killed"
        case "oom":
            assert error.reason == "oom"
            assert error.cause.rss > error.cause.limit == LIMIT
    assert str(error.cause.pid) in str(error)


def assert_queued_never_began(ref):
    with pytest.raises(ActorDiedError) as caught:
        soma.get(ref, timeout=5)
    assert caught.value.executed == "no"


def assert_alive(victim):
    assert soma.get(victim.take.remote(7), timeout=5) == 7


@pytest.mark.parametrize("how", DEATHS)
def test_while_the_constructor_call_is_unpickled(how):
    victim = Victim.remote(read=DiesWhenRead(how))
    error = failure_of(victim.pid.remote(), victim, how)
    if how in HARMLESS:
        assert isinstance(error, ActorInitError) and error.reason == "init"
        assert HARMLESS[how] in str(error) and error.executed == "no"
    else:
        assert_explained(error, how, init=True)
        assert error.executed == "no"


@pytest.mark.parametrize("how", DEATHS)
def test_in_the_constructor(how):
    victim = Victim.remote(how)
    error = failure_of(victim.pid.remote(), victim, how)
    if how == "raise":
        assert isinstance(error, ActorInitError) and error.reason == "init"
        assert isinstance(error.__cause__, ValueError) and "boom" in str(error)
    else:
        assert_explained(error, how, init=True)
    assert error.executed == "no"
    assert_queued_never_began(victim.pid.remote())


@pytest.mark.parametrize("how", DEATHS)
def test_while_an_argument_is_unpickled(how):
    victim = Victim.remote()
    pid = soma.get(victim.pid.remote(), timeout=10)
    doomed, queued = victim.take.remote(DiesWhenRead(how)), victim.pid.remote()
    error = failure_of(doomed, victim, how, pid)
    if how in HARMLESS:
        assert isinstance(error, DecodeError) and HARMLESS[how] in str(error)
        assert_alive(victim)
    else:
        assert_explained(error, how)
        assert error.executed == "maybe"
        assert_queued_never_began(queued)


@pytest.mark.parametrize("how", DEATHS)
def test_while_a_method_runs(how):
    victim = Victim.remote()
    pid = soma.get(victim.pid.remote(), timeout=10)
    doomed, queued = victim.run.remote(how), victim.pid.remote()
    error = failure_of(doomed, victim, how, pid)
    if how == "raise":
        assert type(error) is ValueError and "die" in str(error.__cause__) and str(soma.get(queued)) in error.__notes__[0]
        assert_alive(victim)
    else:
        assert_explained(error, how)
        assert error.executed == "maybe"
        assert_queued_never_began(queued)


@pytest.mark.parametrize("how", DEATHS)
def test_between_the_items_of_a_stream(how, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    victim = Victim.remote()
    stream = victim.items.options(num_returns="streaming").remote(how, gate)
    assert [soma.get(next(stream), timeout=10) for _ in range(2)] == [1, 2]
    gate.open("w").close()
    if how == "stop":
        soma.kill(victim)
    error = failure_of(next(stream), victim, how if how != "stop" else "kill")
    if how == "raise":
        assert type(error) is ValueError
        assert_alive(victim)
    else:
        assert_explained(error, how)
        assert error.executed == "maybe"
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("how", DEATHS)
def test_while_a_result_is_pickled(how):
    victim = Victim.remote()
    pid = soma.get(victim.pid.remote(), timeout=10)
    doomed, queued = victim.give.remote(how), victim.pid.remote()
    error = failure_of(doomed, victim, how, pid)
    if how in HARMLESS:
        assert isinstance(error, ResultNotSerializableError) and error.path == "result" and HARMLESS[how] in str(error)
        assert_alive(victim)
    else:
        assert_explained(error, how)
        assert error.executed == "maybe"
        assert_queued_never_began(queued)


@pytest.mark.parametrize("how", DEATHS)
def test_while_idle(how):
    victim = Victim.remote()
    with death_of(victim) as died:
        pid = soma.get(victim.arm.remote(how), timeout=10)
        if how == "stop":
            while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                os.sched_yield()
        else:
            assert died.wait(BOUND)
    error = failure_of(victim.pid.remote(), victim, how)
    if how == "raise":  # out of the wait for calls: there is no call to blame
        assert isinstance(error, ActorDiedError) and (error.reason, error.exit_code) == ("exited", 1)
        assert "boom" in error.cause.stderr_tail
    else:
        assert_explained(error, how)
    assert error.executed == "no"


@pytest.mark.parametrize("how", DEATHS)
def test_while_its_last_handle_is_gone(how):
    """Calls that were made before the handle went still run, and their refs still settle; then the actor ends."""
    victim = Victim.remote()
    assert_alive(victim)
    with death_of(victim) as died:
        doomed = victim.run.remote(how)
        if how == "stop":
            soma.kill(victim)
        del victim
        error = failure_of(doomed, None, how if how != "stop" else "kill")
        assert died.wait(5)
    if how == "raise":
        assert type(error) is ValueError
    else:
        assert_explained(error, how)


@contextlib.contextmanager
def death_of(victim):
    """An event that is set when the actor has died."""
    died, actor = threading.Event(), victim.actor_id
    del victim  # this generator is no reason to keep it alive
    undo = soma.on_event(lambda e: died.set() if isinstance(e, ActorDied) and e.actor_id == actor else None)
    yield died
    undo()
