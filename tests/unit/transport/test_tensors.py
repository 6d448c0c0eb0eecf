"""torch tensors arrive as they left, with their aliases and without the rest of their storage."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soma.transport.codec import decode, encode, size_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def trip(value: Any) -> Any:
    packed = encode(value)
    return decode(packed.body, [bytearray(b) for b in packed.buffers])


base = torch.arange(6000.0).reshape(20, 300)
TENSORS = {
    "big": base,
    "small": torch.arange(6).reshape(2, 3),
    "0-d": torch.tensor(3.5),
    "empty": torch.zeros(3, 0, 2),
    "transposed": base.t(),
    "slice": base[5:9],
    "columns": base[:, 3:5],
    "element": base[7, 7],
    "channels last": torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last),
    "expanded": torch.arange(5.0).expand(2000, 5),
    "bfloat16": torch.randn(3000).bfloat16(),
    "half": torch.randn(3000).half(),
    "float8": torch.randn(5000).to(torch.float8_e4m3fn),
    "bool": torch.arange(9) % 2 == 0,
    "complex": torch.randn(3000, dtype=torch.complex64),
    "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    "uint16": torch.arange(5).to(torch.uint16),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_arrive_as_they_left(name: str) -> None:
    tensor = TENSORS[name]
    back = trip([tensor])[0]
    assert (type(back), back.dtype, back.shape, back.requires_grad) == (torch.Tensor, tensor.dtype, tensor.shape, False)
    raw = (back.contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8))
    assert torch.equal(*raw)
    if name != "columns":
        assert back.stride() == tensor.stride()
    if name != "expanded":
        back.zero_()
        assert not back.float().abs().any() if back.dtype is not torch.complex64 else True


def test_large_tensors_are_not_copied() -> None:
    packed = encode(base)
    assert len(packed.body) < 200
    assert [b.nbytes for b in packed.buffers] == [base.nbytes]
    buffer = bytearray(packed.buffers[0])
    decode(packed.body, [buffer])[0, 0] = 42.0
    assert memoryview(buffer).cast("f")[0] == 42.0


def test_a_small_slice_does_not_drag_its_storage_along() -> None:
    huge = torch.zeros(1_000_000)
    assert size_of(encode(huge[10:20])) < 500
    assert size_of(encode(huge.view(1000, 1000)[:, 0])) < 5_000
    assert size_of(encode(list(huge.split(1000)[:3]))) < 13_000


def test_overlapping_tensors_still_overlap() -> None:
    huge = torch.arange(1_000_000.0)
    value = {"low": huge[10_000:12_000], "high": huge[11_000:13_000], "strided": huge[10_500:12_500:2], "far": huge[:5]}
    packed = encode(value)
    assert size_of(packed) < 13_000
    back = decode(packed.body, [bytearray(b) for b in packed.buffers])
    assert all(torch.equal(back[k], value[k]) for k in value)
    back["low"][1500] = -1.0
    assert back["high"][500] == -1.0
    assert back["strided"][500] == -1.0
    back["far"].zero_()


def test_aliases_of_other_types_and_libraries() -> None:
    array = torch.arange(2000.0).numpy()
    whole, part = torch.from_numpy(array), torch.from_numpy(array[7:900])
    back = trip((whole, part, whole.view(torch.int32), whole.view(torch.int8)[3:99]))
    back[0][7] = -5.0
    assert back[1][0] == -5.0
    assert back[2][7] == torch.tensor(-5.0).view(torch.int32)
    assert torch.equal(back[3], back[0].view(torch.int8)[3:99])


def test_a_misaligned_alias_arrives_as_a_copy() -> None:
    raw = torch.arange(8200, dtype=torch.uint8)
    floats, odd = raw[8:8008].view(torch.float32), raw[1:8001]
    back = trip([odd, floats])
    assert torch.equal(back[0], odd)
    assert torch.equal(back[1].view(torch.uint8), floats.view(torch.uint8))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_any_slices_of_one_storage(slices: list[tuple[int, int, int]]) -> None:
    storage = torch.arange(200.0)
    views = [storage[start : start + length * step : step] for start, length, step in slices]
    back = trip(views)
    assert all(torch.equal(one, two) for one, two in zip(back, views, strict=True))
    for tensor in [*views, *back]:  # writes are seen by the same others
        tensor += 1
    assert all(torch.equal(one, two) for one, two in zip(back, views, strict=True))


def test_gradients_and_parameters() -> None:
    leaf = torch.randn(2000, requires_grad=True)
    assert trip(leaf).requires_grad
    after = trip(leaf * 2)
    assert after.requires_grad and after.is_leaf
    parameter = torch.nn.Parameter(torch.randn(3))
    frozen = torch.nn.Parameter(torch.randn(3), requires_grad=False)
    back = trip([parameter, frozen, parameter])
    assert [type(p) for p in back] == [torch.nn.Parameter] * 3
    assert [p.requires_grad for p in back] == [True, False, True]
    assert back[0] is back[2]


def test_modules_with_tied_weights() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.BatchNorm1d(50), torch.nn.Linear(50, 50))
    net[2].weight = net[0].weight
    back = trip(net)
    assert back[2].weight is back[0].weight
    x = torch.randn(4, 50)
    assert torch.equal(back.eval()(x), copy.deepcopy(net).eval()(x))
    torch.optim.SGD(back.parameters(), 0.1).zero_grad()


def test_conjugate_and_negative_views() -> None:
    z = torch.randn(2000, dtype=torch.complex64)
    for view in (z.conj(), z.conj().imag, z[::2].conj()):
        assert torch.equal(trip(view), view)
    both = trip([z, z.conj()])
    both[0][0] = 1 + 2j
    assert both[1][0] == 1 - 2j


def test_what_torch_pickles_itself() -> None:
    class Odd(torch.Tensor):
        pass

    sparse = torch.eye(5).to_sparse()
    assert torch.equal(trip(sparse).to_dense(), torch.eye(5))
    odd = trip(torch.randn(5).as_subclass(Odd))
    assert type(odd).__name__ == "Odd"
    assert trip(torch.empty(3, device="meta")).device.type == "meta"
    assert trip(torch.bfloat16) is torch.bfloat16


def test_attributes_of_a_tensor() -> None:
    tensor = torch.zeros(3)
    tensor.label = "x"
    assert trip(tensor).label == "x"
