"""A running call tells its caller something; a process publishes events. The same on every engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import soma
from soma.events import Custom, Event

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@soma.remote
class Teller:
    def count(self, n: int) -> int:
        for i in range(n):
            soma.tell({"i": i})
        return n

    def fail(self) -> None:
        soma.tell({"last": "words"})
        raise ValueError("after the words")

    def tell(self, what: Any) -> str:
        soma.tell(what)
        return "told"

    def through(self, other: Any, n: int) -> list[Any]:
        """Listens to another actor itself."""
        heard: list[Any] = []
        soma.get(other.count.options(listener=heard.append).remote(n))
        return heard

    def stream(self, n: int) -> Iterator[int]:
        for i in range(n):
            soma.tell({"before": i})
            yield i

    async def later(self, n: int) -> int:
        soma.tell({"n": n})
        return n


def test_all_of_it_is_heard_in_order_before_the_result() -> None:
    heard: list[dict[str, Any]] = []
    teller = Teller.remote()
    assert get(teller.count.options(listener=heard.append).remote(1000)) == 1000
    assert heard == [{"i": i} for i in range(1000)]


def test_a_listener_may_call_and_wait_itself() -> None:
    """What comes meanwhile is told meanwhile: a listener that waits may be called again before it returns."""
    teller, other, third = Teller.remote(), Teller.remote(), Teller.remote()
    heard: list[Any] = []

    def below(fields: dict[str, Any]) -> None:
        heard.append(("below", fields["i"]))
        assert get(third.tell.remote({})) == "told"

    def listener(fields: dict[str, Any]) -> None:
        heard.append(("above", fields["i"]))
        heard.append(("result", get(other.count.options(listener=below).remote(2))))

    assert get(teller.count.options(listener=listener).remote(2)) == 2
    assert sorted(heard) == sorted([("above", 0), ("above", 1), ("result", 2), ("result", 2), *[("below", 0), ("below", 1)] * 2])
    assert [h for h in heard if h[0] == "above"] == [("above", 0), ("above", 1)]


def test_two_calls_have_their_own_listeners() -> None:
    teller = Teller.remote()
    heard: list[list[int]] = [[], []]
    refs = [teller.count.options(listener=lambda f, mine=mine: mine.append(f["i"])).remote(50) for mine in heard]
    assert get(refs) == [50, 50]
    assert heard == [list(range(50))] * 2


def test_before_an_exception_too() -> None:
    heard: list[Any] = []
    with pytest.raises(ValueError, match="after the words"):
        get(Teller.remote().fail.options(listener=heard.append).remote())
    assert heard == [{"last": "words"}]


def test_without_a_listener_nothing_happens() -> None:
    teller = Teller.remote()
    assert get(teller.count.remote(3)) == 3


def test_an_actor_listens_to_another() -> None:
    assert get(Teller.remote().through.remote(Teller.remote(), 3)) == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_a_stream_tells_between_its_items() -> None:
    heard: list[Any] = []
    items = [get(ref) for ref in Teller.remote().stream.options(listener=heard.append).remote(3)]
    assert items == [0, 1, 2] and [f["before"] for f in heard] == items


def test_coroutines_tell_their_own_callers() -> None:
    teller = Teller.remote()
    heard: list[Any] = []
    refs = [teller.later.options(listener=lambda f, i=i: heard.append((i, f["n"]))).remote(i) for i in range(20)]
    assert get(refs) == list(range(20))
    assert sorted(heard) == [(i, i) for i in range(20)]


@pytest.mark.parametrize("plain", [{"a": [1, (2.5, None)], "b": {"c": b"x"}}, {}, {"text": "ä" * 1000}])
def test_plain_data(plain: dict[str, Any]) -> None:
    heard: list[Any] = []
    get(Teller.remote().tell.options(listener=heard.append).remote(plain))
    assert len(heard) == 1 and set(heard[0]) == set(plain)


def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(fields: Any) -> None:
        raise KeyError("broken listener")

    assert get(Teller.remote().count.options(listener=broken).remote(3)) == 3
    assert "listener of a call raised" in caplog.text


def test_outside_of_a_call_there_is_nobody_to_tell() -> None:
    with pytest.raises(RuntimeError, match="outside an actor's call"):
        soma.tell({"x": 1})


def test_a_listener_belongs_to_a_call() -> None:
    with pytest.raises(ValueError, match="option of a call"):
        Teller.options(listener=print).remote()


def test_what_is_published_reaches_subscribers_in_order() -> None:
    from soma.cluster import publish

    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stop = soma.on_event(heard.put)
    done = threading.Event()

    @soma.remote
    class Publisher:
        def publish(self, n: int) -> None:
            from soma.cluster import publish

            for i in range(n):
                publish({"kind": "Counted", "i": i})

    publish({"kind": "Mine"})
    get(Publisher.remote().publish.remote(200))
    seen: list[int] = []
    while not done.is_set():
        event = heard.get(timeout=20)
        if isinstance(event, Custom) and event.name == "Counted":
            seen.append(event.fields["i"])
            if len(seen) == 200:
                done.set()
    stop()
    assert seen == list(range(200))


class Plain:
    def __init__(self, x: Any) -> None:
        self.x = x


@soma.remote
class Maker:
    def make(self, what: str) -> Any:
        return {"none": None, "small": np.arange(3.0), "middle": np.arange(2000.0), "large": np.zeros(100_000), "text": "x" * 70_000,
                "object": Plain([1, 2])}[what]

    def refs(self) -> Any:
        return {"inner": soma.put(5)}

    def fail(self) -> Any:
        raise ValueError("no value")

    def echo(self, *args: Any) -> Any:
        return args


@pytest.mark.parametrize("what", ["none", "small", "middle", "large", "text"])
def test_a_ref_that_is_settled_arrives_as_its_value(what: str) -> None:
    """Small ones go with the call; the receiver cannot tell."""
    maker = Maker.remote()
    ref = maker.make.remote(what)
    early = maker.echo.remote(ref, 1)  # not settled yet, most likely
    soma.wait([ref], timeout=20)
    late = maker.echo.remote(1, ref, ref)
    want = get(ref)
    for got in (get(early)[0], *get(late)[1:]):
        np.testing.assert_array_equal(got, want)
        assert type(got) is type(want)


def test_a_settled_ref_with_refs_inside_and_a_failed_one() -> None:
    maker = Maker.remote()
    inner, failed = maker.refs.remote(), maker.fail.remote()
    soma.wait([inner, failed], num_returns=2, timeout=20)
    (got,) = get(maker.echo.remote(inner))
    assert get(got["inner"]) == 5
    with pytest.raises(ValueError, match="no value"):
        get(maker.echo.remote(1, failed))
