"""Calls: classes and functions, options, arguments, refs and handles inside them. The same on every engine."""

from __future__ import annotations

import asyncio
import queue
from functools import partial
from typing import Any

import pytest

import soma

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@soma.remote
class Counter:
    """What most tests call."""

    def __init__(self, n: int = 0, *, step: int = 1) -> None:
        self.n, self.step = n, step

    def add(self, k: int = 1) -> int:
        self.n += k * self.step
        return self.n

    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    @soma.method(num_returns=2)
    def pair(self) -> tuple[str, str]:
        return "a", "b"

    def three(self) -> list[int]:
        return [1, 2, 3]

    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    def title(cls) -> str:
        return cls.__name__

    def __call__(self, x: int) -> int:
        return self.n + x


@soma.remote
def plus(a: int, b: int = 10) -> int:
    return a + b


def test_the_program_on_the_first_page() -> None:
    c = Counter.options(name="first page").remote(5)
    assert get([c.add.remote(1), c.add.remote(2)]) == [6, 8]


def test_functions() -> None:
    assert get(plus.remote(1)) == 11
    assert get(plus.remote(b=2, a=1)) == 3
    assert get([plus.remote(i, i) for i in range(20)]) == [2 * i for i in range(20)]


def test_a_program_written_for_ray() -> None:
    ray = soma

    @ray.remote
    class Store:
        def __init__(self) -> None:
            self.d: dict[str, int] = {}

        def set(self, k: str, v: int) -> None:
            self.d[k] = v

        def all(self) -> dict[str, int]:
            return self.d

    @ray.remote(num_cpus=1)
    def square(x: int) -> int:
        return x * x

    s = Store.remote()
    assert ray.get([s.set.remote("a", 1), s.set.remote("b", 2)]) == [None, None]
    assert ray.get(s.all.remote()) == {"a": 1, "b": 2}
    pending = [square.remote(i) for i in range(4)]
    found = []
    while pending:
        ready, pending = ray.wait(pending)
        found += ray.get(ready)
    assert sorted(found) == [0, 1, 4, 9]
    assert ray.is_initialized()
    ray.kill(s)


def test_constructor_arguments() -> None:
    assert get(Counter.remote(5, step=10).add.remote(2)) == 25


def test_actors_do_not_share_state() -> None:
    a, b = Counter.remote(0), Counter.remote(100)
    assert get([a.add.remote(), b.add.remote(), a.add.remote()]) == [1, 101, 2]


def test_static_class_and_call_methods() -> None:
    c = Counter.remote(5)
    assert get([c.double.remote(4), c.title.remote(), c.__call__.remote(1)]) == [8, "Counter", 6]


def test_inherited_methods() -> None:
    class Base:
        def hello(self) -> str:
            return "base " + self.who()

        def who(self) -> str:
            return "?"

    class Derived(Base):
        def who(self) -> str:
            return "derived"

    assert get(soma.remote(Derived).remote().hello.remote()) == "base derived"


def test_a_decorated_class_gives_its_methods_for_typed_calls() -> None:
    c = Counter.remote(1)
    assert get(c.method(Counter.add).remote(2)) == 3


def test_remote_things_are_not_called_directly() -> None:
    c = Counter.remote()
    for use in (lambda: Counter(), lambda: plus(1), lambda: c.add(1)):
        with pytest.raises(TypeError, match="remote"):
            use()


def test_unknown_methods_are_attribute_errors_that_list_the_known() -> None:
    with pytest.raises(AttributeError, match=r"no method 'ad'.*add"):
        Counter.remote().ad  # noqa: B018


@pytest.mark.parametrize("call", [
    lambda c: c.add.remote(1, 2), lambda c: c.add.remote(z=1), lambda c: c.double.remote(), lambda c: Counter.remote(1, 2),
    lambda c: Counter.remote(stp=1), lambda c: plus.remote(), lambda c: plus.remote(1, c=2), lambda c: plus.remote(1, 2, 3),
])
def test_wrong_arguments_raise_at_the_call(call: Any) -> None:
    c = Counter.remote()
    with pytest.raises(TypeError):
        call(c)
    assert get(c.add.remote()) == 1


@pytest.mark.parametrize("use", [
    lambda: soma.remote(num_cpu=1), lambda: Counter.options(nmae="x"), lambda: plus.options(retries=1),
    lambda: Counter.remote().add.options(max_retrys=1),
])
def test_unknown_options_are_named(use: Any) -> None:
    with pytest.raises(TypeError, match="unknown option '(num_cpu|nmae|retries|max_retrys)'; known are .*num_cpus"):
        use()


@pytest.mark.parametrize("options", [
    {"num_cpus": -1}, {"num_gpus": "one"}, {"max_restarts": -2}, {"max_concurrency": 0}, {"lifetime": "long"}, {"name": ""},
    {"num_returns": -1}, {"num_returns": "many"}, {"runtime_env": {"conda": "x"}}, {"resources": {"CPU": 1}},
])
def test_impossible_options_are_value_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Counter.options(**options)


def test_runtime_env_sets_variables() -> None:
    @soma.remote(runtime_env={"env_vars": {"SOMA_TEST_COLOUR": "red"}})
    class Reader:
        def __init__(self) -> None:
            self.then = self.now()

        def now(self) -> str | None:
            import os

            return os.environ.get("SOMA_TEST_COLOUR")

        def both(self) -> tuple[str | None, str | None]:
            return self.then, self.now()

    assert get(Reader.remote().both.remote()) == ("red", "red")


def test_refs_at_the_top_arrive_as_values_and_nested_ones_as_refs() -> None:
    @soma.remote
    def look(a: Any, box: list[Any], *, k: Any) -> Any:
        inner = box[0]
        return a, type(inner).__name__, soma.get(inner), k

    one = plus.remote(0, 1)
    two = soma.put("two")
    assert get(look.remote(one, [two], k=two)) == (1, "ObjectRef", "two", "two")


def test_refs_chain_without_the_driver() -> None:
    c = Counter.remote()
    ref = soma.put(1)
    for _ in range(10):
        ref = c.add.remote(ref)
    assert get(ref) == 512


def test_a_ref_in_a_result_outlives_the_actors_variable() -> None:
    @soma.remote
    class Maker:
        def make(self) -> list[Any]:
            return [soma.put([1, 2, 3])]

    maker = Maker.remote()
    [inner] = get(maker.make.remote())
    assert isinstance(inner, soma.ObjectRef)
    assert get(inner) == [1, 2, 3]


def test_refs_are_equal_by_what_they_name() -> None:
    ref = soma.put(1)
    [back] = get(soma.put([ref]))
    assert back == ref and hash(back) == hash(ref) and back != soma.put(1)
    with pytest.raises(TypeError, match=r"soma\.get"):
        list(ref)


def test_num_returns() -> None:
    c = Counter.remote()
    a, b = c.pair.remote()
    assert get([b, a]) == ["b", "a"]
    assert c.add.options(num_returns=0).remote(5) is None
    assert get(c.add.remote(0)) == 5
    assert [get(r) for r in c.three.options(num_returns=3).remote()] == [1, 2, 3]
    assert get(c.three.options(num_returns=1).remote()) == [1, 2, 3]
    for ref in c.three.options(num_returns=2).remote():
        with pytest.raises(ValueError, match=r"num_returns=2"):
            get(ref)


def test_handles_travel_and_call_directly() -> None:
    @soma.remote
    class Friend:
        def work(self, c: Any, times: int) -> int:
            return [soma.get(c.add.remote()) for _ in range(times)][-1]

        def box(self, handles: dict[str, Any]) -> int:
            return soma.get(handles["c"].add.remote(100))

    c, friend = Counter.remote(), Friend.remote()
    assert get(friend.work.remote(c, 3)) == 3
    assert get(friend.box.remote({"c": c})) == 103
    assert get(c.add.remote()) == 104


def test_an_actor_makes_actors() -> None:
    @soma.remote
    class Parent:
        def __init__(self) -> None:
            self.child = Counter.remote(10)

        def ask(self) -> int:
            return soma.get(self.child.add.remote())

        def lend(self) -> Any:
            return self.child

    parent = Parent.remote()
    assert get(parent.ask.remote()) == 11
    child = get(parent.lend.remote())
    assert isinstance(child, soma.ActorHandle)
    assert get(child.add.remote()) == 12


def test_tasks_call_tasks() -> None:
    @soma.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(soma.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert get(fib.remote(6)) == 8


def test_calls_to_itself_run_after_the_call_that_made_them() -> None:
    @soma.remote
    class Selfish:
        def __init__(self) -> None:
            self.log: list[str] = []

        def first(self) -> list[Any]:
            me = soma.get_runtime_context().current_actor
            ref = me.second.remote()
            self.log.append("first")
            return [ref]

        def second(self) -> list[str]:
            self.log.append("second")
            return self.log

    selfish = Selfish.remote()  # it owns the ref that it returns: it must live until we have the value
    [ref] = get(selfish.first.remote())
    assert get(ref) == ["first", "second"]


def test_waiting_for_oneself_is_a_deadlock_error() -> None:
    @soma.remote
    class Selfish:
        def wait(self) -> Any:
            return soma.get(soma.get_runtime_context().current_actor.ping.remote())

        def ping(self) -> str:
            return "pong"

    s = Selfish.remote()
    with pytest.raises(soma.DeadlockError, match="Selfish"):
        get(s.wait.remote())
    assert get(s.ping.remote()) == "pong"


def test_calls_run_in_the_order_sent() -> None:
    @soma.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def note(self, i: int) -> None:
            self.seen.append(i)

        def all(self) -> list[int]:
            return self.seen

    log = Log.remote()
    for i in range(300):
        log.note.remote(i)
    assert get(log.all.remote()) == list(range(300))


def test_runtime_context() -> None:
    @soma.remote
    class Who:
        def am_i(self) -> tuple[Any, ...]:
            c = soma.get_runtime_context()
            return c.actor_id, c.actor_name, c.node_id, c.task_id, c.attempt, c.is_driver

    driver = soma.get_runtime_context()
    assert driver.is_driver and driver.actor_id is None and driver.task_id is None and driver.get_actor_id() is None
    who = Who.options(name="who am i").remote()
    actor_id, name, node, task, attempt, is_driver = get(who.am_i.remote())
    assert (actor_id, name, node, attempt, is_driver) == (who.actor_id, "who am i", driver.node_id, 0, False)
    assert task and task != get(who.am_i.remote())[3]


def test_futures_and_await() -> None:
    c = Counter.remote()
    assert c.add.remote(3).future().result(timeout=20) == 3

    async def main() -> list[int]:
        first = await c.add.remote()
        return [first, *await asyncio.gather(*(plus.remote(i, 0) for i in range(5)))]

    assert asyncio.run(main()) == [4, 0, 1, 2, 3, 4]


def test_a_word_when_a_call_is_done() -> None:
    """It comes once, whether the call was done before it was asked for or not; `get` does not wait then."""
    c = Counter.remote()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    refs = [c.add.remote(1) for _ in range(50)]
    for i, ref in enumerate(refs):
        ref.when_done(lambda i=i: done.put(i))  # type: ignore[misc]
    told = sorted(done.get(timeout=20) for _ in refs)
    assert told == list(range(50)) and [soma.get(ref, timeout=0) for ref in refs] == list(range(1, 51))
    refs[7].when_done(lambda: done.put(-1))
    assert done.get(timeout=20) == -1 and done.empty()


def test_a_loop_that_attends_awaits_as_ever() -> None:
    """Values, errors and the death of an actor, while another thread calls too; and again when the loop has left."""
    c = Counter.remote()

    async def main() -> list[Any]:
        leave = soma.cluster.attend()
        second = soma.cluster.attend()
        try:
            others = asyncio.create_task(asyncio.to_thread(lambda: [get(plus.remote(i, 1)) for i in range(30)]))
            own = [await plus.remote(i, 0) for i in range(30)]
            every = await asyncio.gather(*(c.add.remote() for _ in range(100)))
            with pytest.raises(TypeError):
                await plus.remote(1, "x")
            return [own, every, await others]
        finally:
            second()
            leave()
            leave()

    own, every, others = asyncio.run(main())
    assert own == list(range(30)) and sorted(every) == list(range(1, 101)) and others == list(range(1, 31))
    assert asyncio.run(main())[0] == list(range(30))
    assert c.add.remote(0).future().result(timeout=20) == 200
    with pytest.raises(RuntimeError, match="no running event loop"):
        soma.cluster.attend()


def test_cancel_of_what_has_ended_does_nothing() -> None:
    ref = plus.remote(1, 2)
    assert get(ref) == 3
    soma.cancel(ref)
    soma.cancel(ref, force=True)
    assert get(ref) == 3
    with pytest.raises(TypeError, match="takes a ref"):
        soma.cancel(7)  # type: ignore[arg-type]
