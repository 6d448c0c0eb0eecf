"""Values and exceptions that do not travel, do not fit, or bite who opens them; readers that are slow; memory that is full."""

import gc
import socket
import sys
import threading

import numpy as np
import pytest

import soma
from soma.errors import (
    ActorTaskError,
    ArgumentNotSerializableError,
    DecodeError,
    ResultNotSerializableError,
    SomaError,
    TaskCancelledError,
)

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("shared_cluster")]


class NeedsTwo(Exception):
    def __init__(self, a, b):
        super().__init__(a)


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class HoldsLock(Exception):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()


class ExitsWhenRead(Exception):
    def __reduce__(self):
        return sys.exit, (1,)


class ReadsAsAnother:
    def __reduce__(self):
        return dict, ()


class BitesHere:
    """Harmless where it is made; raises where it is read."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return bite, (self.how,)


def bite(how):
    if how == "exit":
        sys.exit(3)
    raise OSError(how)


def circle():
    a, b = ValueError("a"), TypeError("b")
    a.__cause__, b.__cause__ = b, a
    return a


class ExitsWhenWritten(Exception):
    def __reduce__(self):
        sys.exit(1)


MAKERS = {
    "two arguments": lambda: NeedsTwo(1, 2), "no text": NoText, "a lock": HoldsLock, "ten megabytes": lambda: ValueError("x" * 10**7),
    "circle": circle, "exits when read": ExitsWhenRead, "exits when written": ExitsWhenWritten,
    "group": lambda: ExceptionGroup("many", [ValueError(1), NeedsTwo(1, 2)]),
    "local class": lambda: type("Local", (LookupError,), {})("here"), "stop": StopIteration, "generator exit": GeneratorExit,
    "interrupt": KeyboardInterrupt, "base": lambda: BaseException("base"),
}


class Plain:
    def raises(self, kind):
        raise MAKERS[kind]()

    def give(self, maker, *args):
        return maker(*args)

    def take(self, value):
        return value

    def add(self, n):
        self.total = getattr(self, "total", 0) + n
        return self.total

    def items(self, n, size):
        for i in range(n):
            self.made = i
            yield np.full(size, i, np.uint8)

    def how_many(self):
        return self.made


@soma.remote
def answer(x=42):
    return x


class Holder:
    def __init__(self, value):
        pass


Actor = soma.remote(Plain)


@pytest.fixture(scope="module")
def actor(shared_cluster):
    return Actor.remote()


@pytest.fixture(autouse=True)
def still_serves(actor):
    """Whatever came, the actor lives and is where it was."""
    before = soma.get(actor.add.remote(0), timeout=10)
    yield
    assert soma.get(actor.add.remote(1), timeout=10) == before + 1


@pytest.mark.parametrize("kind", MAKERS)
def test_odd_exceptions_arrive(kind, actor):
    with pytest.raises(BaseException) as caught:
        soma.get(actor.raises.remote(kind), timeout=10)
    error = caught.value
    expected = {"circle": ValueError, "group": (ExceptionGroup, ActorTaskError), "local class": LookupError, "ten megabytes": ValueError,
                "no text": (NoText, ActorTaskError), "stop": StopIteration, "generator exit": GeneratorExit,
                "interrupt": (KeyboardInterrupt, TaskCancelledError), "base": BaseException}.get(kind, ActorTaskError)
    assert isinstance(error, expected), repr(error)[:500]
    if kind == "two arguments":
        assert error.type_name.endswith("NeedsTwo") and "raises" in error.traceback_text


UNSENDABLE = {
    "lock": (threading.Lock, "{}"), "generator": (lambda: (i for i in ()), "{}"), "socket": (socket.socket, "{}"),
    "nested": (lambda: {"a": [1, (threading.Lock(),)]}, "{}['a'][1][0]"),
}


@pytest.mark.parametrize("kind", UNSENDABLE)
def test_unpicklable_arguments_raise_at_the_call(kind, actor):
    make, path = UNSENDABLE[kind]
    value = make()
    with pytest.raises(ArgumentNotSerializableError) as caught:
        actor.take.remote(value)
    assert caught.value.path == path.format("args[0]")
    with pytest.raises(ArgumentNotSerializableError) as caught:
        answer.remote(value)
    assert caught.value.path.endswith(path.format(""))
    with pytest.raises(ArgumentNotSerializableError) as caught:
        soma.remote(Holder).remote(value)
    assert caught.value.path == path.format("args[0]")
    if hasattr(value, "close"):
        value.close()


@pytest.mark.parametrize("kind", ["lock", "generator", "nested"])
def test_unpicklable_results_are_named(kind, actor):
    make, path = UNSENDABLE[kind]
    with pytest.raises(ResultNotSerializableError) as caught:
        soma.get(actor.give.remote(make), timeout=10)
    assert caught.value.path == path.format("result")


def test_nested_too_deeply(actor):
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ArgumentNotSerializableError, match="nested too deeply"):
        actor.take.remote(value)
    while value:  # else its own end would need the depth
        value = value[0]


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_results_that_bite_when_they_are_read(how, actor):
    """In the caller: an error of soma's, never the end of the caller."""
    ref = actor.give.remote(BitesHere, how)
    for _ in range(2):
        with pytest.raises(DecodeError):
            soma.get(ref, timeout=10)


def test_a_slow_reader_holds_its_producer_back(actor):
    """At most a window of items is ahead, so memory is bounded whatever the stream's length."""
    source = Actor.options(max_concurrency=2).remote()
    stream = source.items.options(num_returns="streaming").remote(10_000, 1_000_000)
    for n in range(40):
        assert soma.get(next(stream), timeout=10)[-1] == n
        assert soma.get(source.how_many.remote(), timeout=10) <= n + 40
    stats = soma.status()["driver"]
    assert stats["refs"] < 200
    soma.kill(source)


def test_arguments_of_a_slow_actor_are_not_lost():
    actor = Actor.remote()
    refs = [actor.take.remote(np.full(300_000, n % 256, np.uint8)) for n in range(300)]
    assert all((soma.get(ref, timeout=20) == n % 256).all() for n, ref in enumerate(refs))


def test_a_value_whose_owner_died_is_lost_and_says_so():
    @soma.remote
    class Owner:
        def put(self):
            return [soma.put(np.zeros(10)), soma.put(np.ones(10**6))]

    owner = Owner.remote()
    small, large = soma.get(owner.put.remote(), timeout=10)
    assert soma.get(large, timeout=5)[0] == 1
    soma.kill(owner)
    with pytest.raises(SomaError):
        while True:
            soma.get(owner.put.remote(), timeout=5)
    assert soma.get(large, timeout=5)[0] == 1  # it was fetched before
    with pytest.raises(soma.ObjectLostError):
        soma.get(small, timeout=5)
    gc.collect()


def test_who_asks_for_a_value_that_cannot_be_lent_is_told(monkeypatch):
    """All leases in use, say: the answer is that, never silence."""
    from soma.errors import ClusterError
    from soma.transport.arena import Arena

    @soma.remote
    class Asker:
        def first(self, refs):
            return soma.get(refs[0], timeout=20)[0]

    def no_lease(*_):
        raise ClusterError("all leases of this process are in use")

    asker, ref = Asker.remote(), soma.put(np.ones(1 << 17))
    monkeypatch.setattr(Arena, "grant", no_lease)
    with pytest.raises(ClusterError, match="all leases of this process are in use"):
        soma.get(asker.first.remote([ref]), timeout=20)
    monkeypatch.undo()
    assert soma.get(asker.first.remote([soma.put(np.ones(1 << 17))]), timeout=20) == 1
