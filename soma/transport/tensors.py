"""How numpy arrays and torch tensors are pickled: their memory out of band, described by plain values.

What arrives is writable, dense where it was dense, and laid out as it was (C, Fortran or permuted axes). Views with gaps arrive
without them (an axis that ran backwards runs forwards), unless they are tensors that overlap others.
Aliases. Arrays: one array object met twice in a value stays one object; two views of one base part ways, as in numpy itself.
Tensors: those of one value that overlap in memory still do after it arrived, whatever storage objects they came from; disjoint
slices of one storage part ways, so a small slice never drags a large storage along.
Left to numpy: object and string dtypes, subclasses. Left to torch: sparse, quantized and nested tensors, subclasses (in band).
Not sent, as in torch: `.grad`, hooks, and the graph behind a tensor that requires grad. Refused: tensors on a GPU.
Neither library is imported here before a value needs it.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass
from pickle import PickleBuffer
from typing import Any

from soma.errors import NotSerializableError

IN_BAND = 4096
"""Buffers below this many bytes are part of the pickle: a frame of their own would cost more than the copy."""

Reduced = tuple[Any, tuple[Any, ...]]


class Exposed:
    """Raw memory of somebody's array as a writable one, though we only read it: what pickles as read-only would arrive so."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.owner = owner
        self.__array_interface__: dict[str, Any] = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}


def _payload(address: int, size: int, owner: object) -> PickleBuffer | bytearray:
    import numpy as np

    if not size:
        return bytearray()
    memory: Any = np.asarray(Exposed(address, size, owner))
    return bytearray(memory) if size < IN_BAND else PickleBuffer(memory)


# -- numpy ---------------------------------------------------------------------------------------------------------------------


def reduce_array(array: Any) -> Any:
    """For exactly `numpy.ndarray`; NotImplemented where numpy knows better."""
    dtype = array.dtype
    if dtype.hasobject or not dtype.itemsize:
        return NotImplemented
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous or _is_permuted(array)):
        array = array.copy(order="K")
        flags = array.flags
    simple = dtype.isbuiltin == 1 and dtype.metadata is None
    strides = None if flags.c_contiguous else array.strides
    if array.nbytes < IN_BAND and flags.forc:  # the short way for the many small ones
        payload: Any = bytearray(array.tobytes("A"))
    else:
        payload = _payload(array.__array_interface__["data"][0], array.nbytes, array)
    return rebuild_array, (payload, dtype.str if simple else dtype, array.shape, strides)


def _is_permuted(array: Any) -> bool:
    """Whether it is a C-contiguous array with its axes in another order."""
    axes = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    return bool(array.transpose(axes).flags.c_contiguous)


def rebuild_array(buffer: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Any:
    import numpy as np

    return np.ndarray(shape, dtype, buffer, 0, strides)


# -- torch ---------------------------------------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Span:
    """The bytes `[start, stop)` of this process's memory: one storage at the receiver. Pickled as `rebuild_storage`."""

    start: int
    stop: int
    owner: object = None

    def reduce(self) -> Reduced:
        return rebuild_storage, (_payload(self.start, self.stop - self.start, self.owner),)


class Spans:
    """Which memory the tensors of one value occupy, and what is sent of it.

    At first every tensor is taken to be alone. When one turns out to overlap another, `conflict` is set, and the value is
    pickled once more with `merged()`, which knows them all.
    """

    def __init__(self, known: list[tuple[int, int]] | None = None) -> None:
        self.conflict = False
        self._met: list[tuple[int, int]] = []
        self._shared = known is not None
        self._spans = [Span(start, stop) for start, stop in known or ()]
        self._starts = [span.start for span in self._spans]

    def merged(self) -> Spans:
        """For the second time: overlapping ranges made one. Ranges that only one tensor has are left out."""
        groups: list[tuple[int, int, int]] = []
        for start, stop in sorted(self._met):
            if groups and start < groups[-1][1]:
                first, last, members = groups.pop()
                groups.append((first, max(last, stop), members + 1))
            else:
                groups.append((start, stop, 1))
        return Spans([(start, stop) for start, stop, members in groups if members > 1])

    def shared(self, start: int, stop: int, owner: object) -> Span | None:
        """The span that others use too, if there is one; otherwise notes that the range was met."""
        i = bisect_right(self._starts, start) - 1
        if self._shared:
            if i >= 0 and stop <= self._spans[i].stop:
                span = self._spans[i]
                if span.owner is None:
                    span.owner = []
                assert isinstance(span.owner, list)
                span.owner.append(owner)
                return span
            return None
        before = i >= 0 and self._spans[i].stop > start
        after = i + 1 < len(self._spans) and self._starts[i + 1] < stop
        self.conflict = self.conflict or before or after
        self._met.append((start, stop))
        if not (before or after):
            self._spans.insert(i + 1, Span(start, stop))
            self._starts.insert(i + 1, start)
        return None


def reduce_tensor(tensor: Any, spans: Spans) -> Any:
    """For exactly `torch.Tensor` and `torch.nn.Parameter`; NotImplemented where torch knows better."""
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta":
        return NotImplemented
    if tensor.device.type != "cpu":
        raise NotSerializableError("", f"the tensor is on {tensor.device}", "send tensor.cpu()")
    if tensor._backward_hooks:
        torch.utils.hooks.warn_if_has_hooks(tensor)
    item, conj, neg = tensor.element_size(), tensor.is_conj(), tensor.is_neg()
    start = tensor.data_ptr()
    stop = start
    if tensor.numel():
        stop += item * (1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)))
    span = spans.shared(start, stop, tensor) if stop > start else None
    shape, stride = tuple(tensor.shape), tensor.stride()
    if span is None or (start - span.start) % item:
        dense = tensor
        if tensor.numel() * item < stop - start:  # gaps, and nobody else looks at what is in them
            dense, conj, neg = tensor.detach().resolve_conj().resolve_neg().contiguous(), False, False
            start, stride = dense.data_ptr(), dense.stride()
            stop = start + dense.numel() * item
        span = Span(start, stop, dense)
    bits = tensor.requires_grad | conj << 1 | neg << 2 | (type(tensor) is torch.nn.Parameter) << 3
    return rebuild_tensor, (
        span, str(tensor.dtype)[6:], shape, stride, (start - span.start) // item, bits, tensor.__dict__ or None,
    )


def rebuild_storage(buffer: Any) -> Any:
    import torch

    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage() if len(buffer) else torch.UntypedStorage(0)


def rebuild_tensor(
    storage: Any, dtype: str, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, bits: int, attributes: Any
) -> Any:
    import torch

    tensor = torch.empty(0, dtype=getattr(torch, dtype)).set_(storage, offset, shape, stride)
    if bits & 2:
        tensor = tensor.conj()
    if bits & 4:
        tensor = tensor._neg_view()
    if bits & 8:
        tensor = torch.nn.Parameter(tensor, requires_grad=bool(bits & 1))
    elif bits & 1:
        tensor.requires_grad_()
    if attributes:
        tensor.__dict__.update(attributes)
    return tensor
