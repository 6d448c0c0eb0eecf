"""Digests of arrays, tensors and tables: what they hold counts, and nothing that was set along the way."""

from __future__ import annotations

import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from soma.errors import IdentityError
from soma.store import digest
from soma.transport.codec import decode, encode


def trip(value: Any) -> Any:
    packed = encode(value)
    return decode(packed.body, [bytearray(b) for b in packed.buffers])


# -- numpy ---------------------------------------------------------------------------------------------------------------------

dtypes = st.one_of(
    hnp.scalar_dtypes(), hnp.array_dtypes(allow_subarrays=False), hnp.array_dtypes(max_size=3),
    st.sampled_from(["<f8", ">f8", "f2", "<U5", "S3", "V7", "M8[ns]", "O", "c16", "?", "f8,(2,2)i4"]).map(np.dtype))
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Arrays of any dtype and shape: dense, in Fortran order, permuted, with gaps, backwards, broadcast."""
    dtype, shape = draw(dtypes), draw(shapes)
    size = int(np.prod(shape, dtype=int))
    if dtype.kind == "O":
        flat = np.empty(size, object)
        flat[:] = draw(st.lists(st.integers() | st.text() | st.none(), min_size=size, max_size=size))
    else:
        seed = draw(st.integers(0, 2**32 - 1))
        raw = np.random.default_rng(seed).integers(0, 2 if dtype.kind == "b" else 100, size * dtype.itemsize, np.uint8)
        flat = np.frombuffer(raw.tobytes(), dtype, size) if dtype.itemsize else np.zeros(size, dtype)
    array = flat.reshape(shape).transpose(draw(st.permutations(range(len(shape)))))
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    return array


@given(arrays())
def test_an_array_equals_its_dense_copy_and_what_the_cache_gives_back(array: Any) -> None:
    assert digest(array) == digest(array.copy(order="K"))
    assert digest(array) == digest(trip(array))
    assert digest(array.copy(order="C")) == digest(trip(array.copy(order="C")))


@given(arrays(), st.data())
def test_a_change_of_one_element_shows(array: Any, data: st.DataObject) -> None:
    changed = array.copy(order="K")
    if not array.size or not array.dtype.itemsize or array.dtype.names is not None:
        return
    at = data.draw(st.integers(0, array.size - 1))
    if array.dtype.kind == "O":
        changed.flat[at] = object  # a class that no strategy draws
    else:
        raw = bytearray(changed.flat[at : at + 1].tobytes())  # a scalar's bytes would leave out a string's last zeros
        raw[data.draw(st.integers(0, min(len(raw), 8) - 1))] ^= 1
        changed.flat[at] = np.frombuffer(bytes(raw), array.dtype)[0]
        if changed.tobytes() == array.tobytes():  # numpy reads it as the same: a bool, or a string with a zero at its end
            return
    assert digest(changed) != digest(array)


@given(hnp.arrays("i4", hnp.array_shapes(min_dims=2, max_dims=4, min_side=2), unique=True))
def test_shape_and_order_count(array: Any) -> None:
    kinds = [array, np.asfortranarray(array), array.reshape(-1), array.astype("i8"), array.astype("f4"), array.astype(">i4"),
             array.view("u4"), array.tolist()]
    assert len({digest(kind) for kind in kinds}) == len(kinds)


def test_axes_of_one_element_say_nothing_of_the_order() -> None:
    odd = np.lib.stride_tricks.as_strided(np.arange(6.0), (1, 6, 1), (8888, 8, 4))
    assert digest(odd) == digest(np.arange(6.0).reshape(1, 6, 1))
    assert digest(np.ones((5, 1)).T) == digest(np.ones((1, 5)))


def test_what_lies_between_fields_says_nothing() -> None:
    aligned = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f8"], "offsets": [0, 8], "itemsize": 16})
    one, two = np.frombuffer(b"\x01" + b"\xaa" * 7 + b"\0" * 8, aligned), np.frombuffer(b"\x01" + b"\xbb" * 7 + b"\0" * 8, aligned)
    assert digest(one) == digest(two) != digest(np.frombuffer(b"\x02" + b"\xbb" * 7 + b"\0" * 8, aligned))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant != 63, reason="the long double of this machine has no bytes that mean nothing")
@pytest.mark.parametrize("kind", [np.longdouble, np.clongdouble])
def test_what_lies_behind_a_long_double_says_nothing(kind: Any) -> None:
    one = np.ones(3, kind)
    two = one.copy()
    two.view("u1")[15::16] = 77
    assert digest(one) == digest(two) == digest(one.copy())
    assert digest(one) != digest(one + np.finfo(kind).eps)
    assert digest(one[0]) == digest(two[0])


def test_strings_of_any_length_and_objects() -> None:
    text = np.array(["a", "b" * 100], np.dtypes.StringDType())  # type: ignore[attr-defined]
    assert digest(text) == digest(text.copy()) != digest(np.array(["a", "c" * 100], np.dtypes.StringDType()))  # type: ignore[attr-defined]
    rows = np.array([(1, [2])], [("a", "i4"), ("b", object)])
    assert digest(rows) == digest(trip(rows)) != digest(np.array([(1, [3])], [("a", "i4"), ("b", object)]))


def test_whether_it_can_be_written_to_does_not_count() -> None:
    frozen = np.arange(5)
    frozen.setflags(write=False)
    assert digest(frozen) == digest(np.arange(5))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_array_is_not_copied_and_costs_little_more_than_its_hash(order: Any) -> None:
    large = np.ones((4096, 4096), order=order)
    tracemalloc.start()
    digest(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20

    def best(measured: Any) -> float:
        times = []
        for _ in range(5):
            began = time.perf_counter()
            measured()
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(lambda: digest(large)) < 3 * best(lambda: blake3(large.reshape(-1, order="A").view("u1")).digest())


@pytest.mark.parametrize("values", [[0.5] * 10**6, list(range(10**6)), ["word"] * 10**6, {n: str(n) for n in range(10**6)}],
                         ids=["floats", "ints", "strings", "dict"])
def test_long_lists_of_atoms_take_no_loop(values: Any) -> None:
    """Counted, not timed: a million of them may not cost a million calls of ours."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    digest(values)
    sys.setprofile(None)
    assert calls < 1000


# -- torch ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
class TestTorch:
    def test_what_looks_alike_differs(self) -> None:
        import torch

        base = torch.arange(6.0).reshape(2, 3)
        parameter = torch.nn.Parameter(base)
        named = base.clone()
        named.note = "x"  # type: ignore[attr-defined]
        kinds = [base, base.T, base.T.contiguous(), base.reshape(3, 2), base.double(), base.bfloat16(), base.half(),
                 base.to(torch.complex64), base.clone().requires_grad_(), parameter, torch.nn.Parameter(base, requires_grad=False), named,
                 base.numpy(), base + 1,
                 base.to(torch.float8_e4m3fn), base.int(), base.bool(), -base, torch.tensor(1.0), torch.tensor([1.0]), torch.empty(0),
                 torch.empty(0, 2), torch.tensor(True), torch.float32, torch.float64, torch.device("cpu"), torch.Size([2, 3]), (2, 3),
                 base.to_sparse(), base.int().to_sparse()]
        assert len({digest(kind) for kind in kinds}) == len(kinds)
        assert [digest(trip(kind)) for kind in kinds] == [digest(kind) for kind in kinds]

    def test_views_count_as_what_they_show(self) -> None:
        import torch

        base = torch.arange(24.0).reshape(4, 6)
        assert digest(base[::2, 1:4]) == digest(base[::2, 1:4].clone())
        assert digest(base[1]) == digest(torch.arange(6.0, 12.0))
        flipped = torch.complex(base, base)
        assert digest(flipped.conj()) == digest(flipped.conj().resolve_conj())
        assert digest(torch.ones(2).expand(3, 2)) == digest(torch.ones(3, 2)) == digest(trip(torch.ones(2).expand(3, 2)))
        assert digest(base.T[::2]) == digest(base.T[::2].contiguous()) == digest(trip(base.T[::2]))
        assert digest(base.clone().requires_grad_() * 1) == digest((base.clone() * 1).requires_grad_())

    @pytest.mark.filterwarnings("ignore:Sparse ")
    def test_sparse_tensors(self) -> None:
        import torch

        dense = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 4.0]])
        twice = torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [1.0, 1.0, 3.0], (2, 3))
        assert digest(twice) == digest(twice.coalesce()) != digest(dense.to_sparse())
        kinds = [dense.to_sparse(), dense.to_sparse_csr(), dense.to_sparse_csc(), dense.to_sparse_bsr((1, 1)),
                 dense.to_sparse_bsc((1, 1)), dense]
        assert len({digest(kind) for kind in kinds}) == len(kinds)
        assert [digest(kind) for kind in kinds] == [digest(kind.clone()) for kind in kinds]

    def test_modules(self) -> None:
        import torch

        def made(seed: int) -> Any:
            torch.manual_seed(seed)
            return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 1))

        one = made(1)
        assert digest(one) == digest(made(1)) == digest(trip(one)) != digest(made(2))
        assert digest(one.state_dict()) == digest(made(1).state_dict()) != digest(made(2).state_dict())
        one(torch.ones(2, 3))  # which moves the running mean
        assert digest(one) != digest(made(1))
        assert digest(made(1).eval()) != digest(made(1))

    def test_what_has_no_values_is_refused(self) -> None:
        import torch

        with pytest.raises(IdentityError, match=r"value\['w'\] .*meta"):
            digest({"w": torch.empty(3, device="meta")})
        with pytest.raises(IdentityError, match="storage"):
            digest(torch.ones(3).untyped_storage())

    def test_subclasses(self) -> None:
        import torch

        class Own(torch.Tensor):
            pass

        own = torch.ones(3).as_subclass(Own)
        assert digest(own) == digest(torch.ones(3).as_subclass(Own)) != digest(torch.ones(3))


# -- scipy and scikit-learn ----------------------------------------------------------------------------------------------------


def test_sparse_matrices_do_not_count_by_flags_set_along_the_way() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.array([[0, 2.0], [3, 0]])
    for kind in ("csr", "csc", "coo", "bsr", "dia", "lil", "dok"):
        for make in (getattr(sparse, f"{kind}_matrix"), getattr(sparse, f"{kind}_array")):
            one, two = make(dense), make(dense)
            for looked in ("has_sorted_indices", "has_canonical_format"):
                assert getattr(two, looked, True)
            assert digest(one) == digest(two) == digest(trip(two)) == digest(one.copy()) != digest(make(dense + 1))
    kinds = [getattr(sparse, f"{kind}_{form}")(dense) for kind in ("csr", "csc", "coo") for form in ("matrix", "array")]
    assert len({digest(kind) for kind in kinds}) == len(kinds)


def test_estimators() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 1])
    one = linear.LogisticRegression(C=2.0)
    assert digest(one) == digest(linear.LogisticRegression(C=2.0)) != digest(linear.LogisticRegression(C=2))
    fitted = linear.LogisticRegression(C=2.0).fit(x, y)
    assert digest(fitted) == digest(trip(fitted)) == digest(one.fit(x, y)) != digest(linear.LogisticRegression(C=2.0))


# -- pandas --------------------------------------------------------------------------------------------------------------------


def test_tables_count_by_what_they_hold() -> None:
    pandas = pytest.importorskip("pandas")

    def made(**changes: Any) -> Any:
        columns = {"n": [1, 2], "x": [0.5, None], "s": ["a", "b"], "t": pandas.to_datetime(["2024-01-01", "2024-01-02"]),
                   "c": pandas.Categorical(["u", "v"]), "i": pandas.array([1, None], dtype="Int64"),
                   "z": pandas.to_datetime(["2024-01-01", "2024-01-02"]).tz_localize("UTC"),
                   "p": pandas.period_range("2024-01", periods=2, freq="M")}
        return pandas.DataFrame(columns | changes)

    one, two = made(), made()
    two["n"].sum(), two.index.get_loc(1), two.columns.get_loc("s"), two.sort_values("x")  # which fills caches
    assert digest(one) == digest(two) == digest(one.copy()) == digest(trip(one))
    grown = made()[["n"]]
    for name in made().columns[1:]:
        grown[name] = made()[name]  # many blocks
    assert digest(grown) == digest(one)
    others = [made(n=[1, 3]), made(n=[1.0, 2.0]), made(x=[0.5, 0.0]), made(s=["a", "c"]), made(c=pandas.Categorical(["u", "w"])),
              made(c=pandas.Categorical(["u", "v"], ordered=True)), made(i=pandas.array([1, 0], dtype="Int64")), made(extra=[1, 2]),
              made().rename(columns={"n": "m"}), made().set_index("n"), made().iloc[::-1], made().iloc[:1], one["n"], one["x"], one.index,
              one.columns, one.to_numpy(), made().set_index(["n", "s"]), one["n"].rename("m"), pandas.Index([1, 2]),
              pandas.Index([1, 2], name="n"),
              one["c"], one["t"], one["z"], one["p"], one["i"], one["i"].array, one["c"].array]
    assert len({digest(other) for other in [one, *others]}) == len(others) + 1
    assert [digest(trip(other)) for other in others] == [digest(other) for other in others]
