"""Values: they arrive as they left, as snapshots, private and writable; and what put, get and wait promise."""

from __future__ import annotations

import importlib.util
import math
import struct
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soma

pytestmark = pytest.mark.usefixtures("engine")
get = partial(soma.get, timeout=20)


@soma.remote
class Echo:
    def back(self, x: Any) -> Any:
        return x

    def change(self, x: Any) -> Any:
        x[0] = 99
        return x

    def keep(self, x: Any) -> None:
        self.x = x

    def kept(self) -> Any:
        return self.x


@pytest.fixture(scope="module")
def echo(engine: str) -> Any:
    return Echo.remote()


def same(a: Any, b: Any) -> bool:
    """Equal in type, value, NaN, dtype, shape and memory order, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a.keys(), b.keys())) and all(map(same, a.values(), b.values()))
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or a.flags.f_contiguous != b.flags.f_contiguous:
            return False
        return all(map(same, a.ravel(), b.ravel())) if a.dtype.hasobject else a.tobytes() == b.tobytes()
    return bool(a == b)


PLAIN = [
    True, False, 0, -1, 2**200, -(2**64), 0.0, -0.0, math.nan, math.inf, -math.inf, 1e-310, None, "", "ünï\x00", b"", b"\xff\x00", 1 + 2j,
    (), (1,), [], [[1], [2, [3]]], {}, {1: "a", "1": "b", None: (), (1, 2): 3}, {1, 2}, frozenset({3}), range(3),
    slice(1, 2), Ellipsis, bytearray(b"x"), [1, (2.5, {"k": [None, True]})], "x" * 100_000, list(range(10_000)),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: repr(v)[:24])
def test_plain_values_arrive_as_they_left(echo: Any, value: Any) -> None:
    assert same(get(echo.back.remote(value)), value)
    assert same(get(soma.put(value)), value)


ARRAYS = {
    **{f"dtype {d}": np.arange(6).astype(d)
       for d in ("bool", "int8", "uint64", "float16", "float32", "float64", "complex128", "S3", "U4", "M8[s]")},
    "nan payload": np.array([0x7FF8_0000_0000_1234], dtype=np.uint64).view(np.float64),
    "0-d": np.array(3.5), "empty": np.empty((0, 3)), "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "transposed": np.arange(12.0).reshape(3, 4).T, "strided": np.arange(20)[1::3], "reversed": np.arange(5)[::-1],
    "structured": np.array([(1, 2.0, "a")], dtype=[("i", "i4"), ("f", "f8"), ("s", "U2")]),
    "objects": np.array([1, "a", None, [2]], dtype=object),
    "big endian": np.arange(3, dtype=">i4"), "read-only": np.frombuffer(b"12345678", dtype=np.uint8), "1 MB": np.arange(131_072.0),
    "scalar": np.float32(1.5), "masked": np.ma.masked_array([1, 2], mask=[True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_arrive_as_they_left_and_writable(echo: Any, name: str) -> None:
    value = ARRAYS[name]
    back = get(echo.back.remote(value))
    if name == "masked":
        assert isinstance(back, np.ma.MaskedArray) and back.tolist() == [None, 2]
        return
    assert type(back) is type(value) and back.dtype == value.dtype and back.shape == value.shape
    if not isinstance(value, np.ndarray):
        assert back == value
    elif value.dtype.hasobject:
        assert back.tolist() == value.tolist()
    else:
        assert back.tobytes() == value.tobytes() and back.flags.writeable
        if value.flags.forc:  # an array with gaps arrives without them
            assert back.flags.f_contiguous == value.flags.f_contiguous


def test_aliases_inside_one_value_stay_aliases(echo: Any) -> None:
    row = [0]
    array = np.zeros(50_000)
    back = get(echo.back.remote({"a": [row, row], "b": (array, array)}))
    back["a"][0].append(1)
    back["b"][0][0] = 7
    assert back["a"][1] == [0, 1] and back["b"][1][0] == 7


def test_a_cycle_inside_a_value(echo: Any) -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    back = get(echo.back.remote(loop))
    assert back[1] is back


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000], ids=["small", "frames", "arena"])
def test_an_argument_is_a_snapshot(echo: Any, size: int) -> None:
    x = np.zeros(size)
    ref = echo.back.remote(x)
    kept = soma.put(x)
    x[:] = 1
    assert not get(ref).any() and not get(kept).any()


@pytest.mark.parametrize("size", [10, 100_000, 1_000_000], ids=["small", "frames", "arena"])
def test_what_arrives_is_private(echo: Any, size: int) -> None:
    x = np.zeros(size)
    put = soma.put(x)
    assert get(echo.change.remote(put))[0] == 99
    assert x[0] == 0 and get(put)[0] == 0
    get(echo.keep.remote(x))
    mine = get(echo.kept.remote())
    mine[:] = 5
    assert not get(echo.kept.remote()).any()


@pytest.mark.torch
def test_tensors(echo: Any) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    tensors = [torch.tensor(2.5), torch.empty(0, 3), base, base.t(), base[1:3, 2:], torch.ones(3, dtype=torch.bfloat16), torch.arange(3),
               torch.tensor([True]), torch.ones(2, requires_grad=True), torch.nn.Parameter(torch.ones(2)), torch.zeros(500_000)]
    for t, back in zip(tensors, get(echo.back.remote(tensors)), strict=True):
        assert type(back) is type(t) and back.dtype == t.dtype and back.shape == t.shape and back.requires_grad == t.requires_grad
        assert torch.equal(back, t) and back.stride() == t.stride()
    mine = get(echo.back.remote(base))
    mine += 1
    assert base[0, 0] == 0
    module = torch.nn.Linear(3, 2)
    twin = get(echo.back.remote(module))
    assert torch.equal(module(torch.ones(1, 3)), twin(torch.ones(1, 3)))


def test_classes_and_functions_of_this_file_travel(echo: Any) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Point) and other.x == self.x

        __hash__ = None  # type: ignore[assignment]

    offset = 3
    assert get(echo.back.remote(lambda v: v + offset))(4) == 7
    assert get(echo.back.remote(Point(2))).x == 2


numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
arrays = st.builds(lambda d, n: np.arange(n).astype(d), st.sampled_from(["f4", "f8", "i2", "u1", "?"]), st.integers(0, 3000))
nested = st.recursive(
    numbers | arrays,
    lambda inner: (st.lists(inner, max_size=4) | st.tuples(inner, inner)
                   | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=4)),
    max_leaves=12)


@settings(max_examples=60)
@given(value=nested)
def test_any_value_makes_the_round_trip(echo: Any, value: Any) -> None:
    assert same(get(echo.back.remote(value)), value)
    assert same(get(get(echo.back.remote([soma.put(value)]))[0]), value)


def test_get_takes_lists_and_keeps_their_order() -> None:
    refs = [soma.put(i) for i in range(50)]
    assert get(refs[::-1]) == list(range(49, -1, -1))
    assert get([]) == [] and get((refs[1], refs[1])) == [1, 1]


@pytest.mark.parametrize("wrong", [5, "refs", None, {"a": 1}])
def test_get_refuses_what_is_no_ref(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"soma\.get takes"):
        soma.get(wrong)
    with pytest.raises(TypeError):
        soma.get([wrong])


def test_put_refuses_a_ref_and_names_what_cannot_be_pickled() -> None:
    import threading

    with pytest.raises(TypeError, match="is one already"):
        soma.put(soma.put(1))
    with pytest.raises(soma.NotSerializableError) as caught:
        soma.put({"a": [threading.Lock()]})
    assert caught.value.path == "value['a'][0]"


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan])
def test_negative_timeouts(timeout: float) -> None:
    ref = soma.put(1)
    with pytest.raises(ValueError, match="timeout"):
        soma.get(ref, timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        soma.wait([ref], timeout=timeout)


def test_wait(echo: Any) -> None:
    assert soma.wait([]) == ([], [])
    refs = [echo.back.remote(i) for i in range(5)]
    get(refs)
    assert soma.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert soma.wait(refs, num_returns=5, timeout=0) == (refs, [])
    assert soma.wait(refs[::-1], num_returns=1) == ([refs[4]], [refs[3], refs[2], refs[1], refs[0]])
    more = [echo.back.remote(i) for i in range(100)]
    ready, rest = soma.wait(more, num_returns=100, timeout=20)
    assert ready == more and rest == []


def test_wait_refuses() -> None:
    a, b = soma.put(1), soma.put(2)
    for num_returns in (0, -1, 3):
        with pytest.raises(ValueError, match="num_returns"):
            soma.wait([a, b], num_returns=num_returns)
    with pytest.raises(ValueError, match="twice"):
        soma.wait([a, b, a])
    with pytest.raises(TypeError, match="list of refs"):
        soma.wait(a)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes refs"):
        soma.wait([a, 1])  # type: ignore[list-item]


def test_wait_counts_errors_as_settled() -> None:
    @soma.remote
    def fail() -> None:
        raise ValueError

    ready, rest = soma.wait([fail.remote()], timeout=20)
    assert len(ready) == 1 and rest == []
