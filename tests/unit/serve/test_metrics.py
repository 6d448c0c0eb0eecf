"""What predictions record: names, types, modes; against plain dicts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve.slots.metrics import Metrics, check_name
from soma.serve.slots.scope import Scope, current_scope, inside


def scope() -> tuple[Scope, list[tuple[str, Any, str]]]:
    told: list[tuple[str, Any, str]] = []
    return Scope(lambda *said: told.append(said), {"traceparent": "00-1-2-00"}), told


def test_replace_increment_append() -> None:
    mine, told = scope()
    mine.record_metric("temperature", 0.5)
    mine.record_metric("temperature", 0.7)
    mine.record_metric("tokens", 2, mode="increment")
    mine.record_metric("tokens", 3, "incr")
    mine.record_metric("seen", "a", mode="append")
    mine.record_metric("seen", "b", mode="append")
    mine.record_metric("timing.load", 1)
    mine.record_metric("timing.deep.run", 2.5)
    assert mine.metrics.nested() == {"temperature": 0.7, "tokens": 5, "seen": ["a", "b"], "timing": {"load": 1, "deep": {"run": 2.5}}}
    assert told[2:5] == [("tokens", 2, "increment"), ("tokens", 3, "increment"), ("seen", "a", "append")]


def test_like_a_dict() -> None:
    mine, told = scope()
    mine.metrics["n"] = 1
    mine.metrics["n"] += 1
    assert mine.metrics["n"] == 2 and "n" in mine.metrics and len(mine.metrics) == 1 and mine.metrics.get("m", 7) == 7
    del mine.metrics["n"]
    assert mine.metrics.nested() == {} and told[-1] == ("n", None, "replace")
    with pytest.raises(KeyError):
        del mine.metrics["n"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b.c", "b.d"]), st.integers(-5, 5) | st.none(), st.booleans()), max_size=20))
def test_numbers_against_a_plain_dict(said: list[tuple[str, int | None, bool]]) -> None:
    metrics, want = Metrics(), {}
    for name, value, adds in said:
        metrics.record(name, value, "increment" if adds else "replace")
        if value is None:
            want.pop(name, None)
        else:
            want[name] = value + want.get(name, 0) if adds else value
    got = metrics.nested()
    assert {"a": got.get("a"), **{f"b.{k}": v for k, v in got.get("b", {}).items()}} == {"a": None, **want}


@pytest.mark.parametrize(("first", "then", "mode"), [
    (1, "text", "replace"), ("text", 1, "replace"), (1, True, "replace"), ([1], {"a": 1}, "replace"), (1, 2, "append"),
    ("a", "b", "increment"), ([1], 1, "increment")])
def test_one_type_for_each_name_until_it_is_deleted(first: Any, then: Any, mode: str) -> None:
    metrics = Metrics()
    metrics.record("m", first)
    with pytest.raises(TypeError, match="metric 'm'"):
        metrics.record("m", then, mode)
    assert metrics.get("m") == first
    metrics.record("m", None)
    metrics.record("m", then)
    assert metrics.get("m") == then


@pytest.mark.parametrize("value", [object(), b"bytes", 1j, {1, 2}])
def test_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        Metrics().record("m", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Metrics().record("m", value)


@pytest.mark.parametrize("name", ["a", "A9", "a_b", "time.to_first", "a.b.c.d", "x" * 128])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "_a", "a_", "a__b", "9a", "a b", "ä", "a-b", "a.b.c.d.e",
                                  "x" * 129, 7, "a\n"])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


@pytest.mark.parametrize("name", ["predict_time", "cog.anything", "cog"])
def test_reserved_names(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        check_name(name)


@pytest.mark.parametrize(("there", "name"), [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c")])
def test_a_number_has_nothing_below_it(there: str, name: str) -> None:
    metrics = Metrics()
    metrics.record(there, 1)
    with pytest.raises(ValueError, match="below"):
        metrics.record(name, 1)


def test_a_wrong_mode() -> None:
    with pytest.raises(ValueError, match="mode='sum'"):
        Metrics().record("m", 1, "sum")


def test_the_scope_of_here() -> None:
    outside = current_scope()
    outside.record_metric("nobody", 1)
    assert dict(outside.context) == {}
    mine, _ = scope()
    with inside(mine, alone=False):
        assert current_scope() is mine and mine.context["traceparent"] == "00-1-2-00"
        assert in_a_thread(current_scope) is not mine
    with inside(mine, alone=True):
        assert in_a_thread(current_scope) is mine
    assert current_scope() is not mine and in_a_thread(current_scope) is not mine


def test_threads_count_together() -> None:
    mine, told = scope()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: mine.record_metric("n", 1, "increment"), range(2000)))
    assert mine.metrics["n"] == len(told) == 2000


def in_a_thread(fn: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


def test_a_sum_that_is_no_number_any_more_is_refused_and_the_metric_stays() -> None:
    metrics = Metrics()
    metrics.record("much", 1e308, "increment")
    with pytest.raises(ValueError, match="inf is no number that JSON knows"):
        metrics.record("much", 1e308, "increment")
    assert metrics.get("much") == 1e308


@pytest.mark.parametrize(("value", "error"), [([1.0, float("nan")], ValueError), ({"a": [float("inf")]}, ValueError), ([b"x"], TypeError)])
def test_no_json_inside(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="'m': what is in it cannot be JSON"):
        Metrics().record("m", value)
