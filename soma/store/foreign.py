"""Arrays, tensors and tables of other libraries, by what they hold: not by caches, flags set along the way, or views.

Arrays count by dtype, shape, bytes, and the order of their axes in memory; one with gaps counts as its dense copy. Nothing is copied
that is dense. Arrays of objects count by their elements. Tensors count as arrays do, with `requires_grad` and the attributes that
somebody set; one on a GPU by what it holds, and where it is. Sparse matrices and tensors count by their dense parts, pandas' tables by
columns and labels.
No library is imported here: a value can only be of one that was.
"""

from __future__ import annotations

import sys
from typing import Any

from blake3 import blake3

from soma.store import tables
from soma.store.atoms import framed, number, text, tuple_of
from soma.store.parts import Parts, Unstable

_BITS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
_FLAGS_OF_SPARSE = frozenset({"_has_sorted_indices", "_has_canonical_format", "has_sorted_indices", "has_canonical_format", "maxprint"})


def _find(module: str, name: str) -> Any:
    """A class of a library that was imported; else `()`, which nothing is an instance of."""
    return getattr(sys.modules.get(module), name, ())


def leaf(value: Any) -> bytes | None:
    """The token of an array or a tensor without parts; None for all else."""
    if type(value) is _find("numpy", "ndarray"):
        return None if value.dtype.hasobject else array_token(value)
    if isinstance(value, _find("numpy", "generic")) and type(value).__module__ == "numpy":
        return None if value.dtype.hasobject else tuple_of(b"scalar", array_token(_array(value)))
    if isinstance(value, _find("torch", "Tensor")) and _is_plain(value):
        return _tensor_token(value)
    return None


def parts(value: Any) -> Parts | None:
    """An array of objects, a sparse matrix, a tensor or a table taken apart; None for all else."""
    if type(value) is _find("numpy", "ndarray"):
        return Parts(tuple_of(b"objects", _dtype(value.dtype), *map(number, value.shape)), [(".flat", value.ravel().tolist())])
    if isinstance(value, _find("torch", "Tensor")):
        return _tensor(value)
    if isinstance(value, (_find("torch", "UntypedStorage"), _find("torch", "TypedStorage"))):
        raise Unstable("a storage is the memory behind tensors; hash the tensors")
    if isinstance(value, (_find("scipy.sparse", "spmatrix"), _find("scipy.sparse", "sparray"))):
        state = {name: part for name, part in vars(value).items() if name not in _FLAGS_OF_SPARSE}
        items = [(".__class__", type(value))] + [(f".{name}", state[name]) for name in sorted(state)]
        return Parts(tuple_of(b"sparse", *(name.encode() for name in sorted(state))), items)
    return tables.parts(value)


def _array(value: Any) -> Any:
    return sys.modules["numpy"].asarray(value)


def array_token(array: Any) -> bytes:
    """The token of an array that holds no Python objects; its memory is read where it is."""
    dtype = array.dtype
    if dtype.names is not None:  # by field: what lies between fields means nothing
        return tuple_of(b"structured", *_outline(array), *(array_token(array[name]) for name in dtype.names))
    dense = array if _is_dense(array) else array.copy(order="K")
    line = dense.transpose(_axes(dense)).reshape(-1)
    hasher = blake3(framed(b"array", *_outline(dense)))
    if line.nbytes:
        raw = line.view("uint8")
        if dtype.char in "gG" and sys.modules["numpy"].finfo(dtype).nmant == 63:  # 10 bytes of x87, and 6 that mean nothing
            raw = raw.reshape(-1, 16)[:, :10].tobytes()
        hasher.update(raw)
    return b"A" + hasher.digest()


def _is_dense(array: Any) -> bool:
    """Whether its elements lie one behind the other, in whatever order of the axes."""
    return bool(array.transpose(_axes(array)).flags.c_contiguous)


def _axes(array: Any) -> list[int]:
    """Its axes, from the one with the largest steps to the one with the smallest; those of one element first."""
    return sorted(range(array.ndim), key=lambda axis: (array.shape[axis] != 1, -abs(array.strides[axis])))


def _outline(array: Any) -> list[bytes]:
    """Dtype, shape, and the order of the axes that have more than one element, if there is any."""
    order = [axis for axis in _axes(array) if array.shape[axis] != 1] if array.size else []
    return [_dtype(array.dtype), *map(number, array.shape), b"", *map(number, order)]


def _dtype(dtype: Any) -> bytes:
    if dtype.names is not None:
        fields = ((name, *dtype.fields[name][:2]) for name in dtype.names)
        return tuple_of(b"fields", *(tuple_of(text(name), _dtype(inner), number(offset)) for name, inner, offset in fields))
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return tuple_of(b"repeated", _dtype(inner), *map(number, shape))
    return tuple_of(dtype.str.encode(), dtype.name.encode())  # the names tell apart what extensions add, such as bfloat16


def _is_plain(tensor: Any) -> bool:
    torch = sys.modules["torch"]
    known = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
    return known and tensor.layout is torch.strided and not tensor.__dict__


def _tensor_token(tensor: Any) -> bytes:
    torch = sys.modules["torch"]
    if tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta":
        raise Unstable(f"a tensor that is {'quantized' if tensor.is_quantized else 'nested' if tensor.is_nested else 'on meta'}"
                       " has no values that could be compared; give its dense values")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    try:
        array = plain.numpy()
    except TypeError:  # a dtype that numpy has not: bfloat16, float8, …
        array = plain.view(getattr(torch, _BITS[plain.element_size()])).numpy()
    if not _is_dense(array):
        array = sys.modules["numpy"].ascontiguousarray(array)  # as torch itself does it
    return tuple_of(b"parameter" if isinstance(tensor, torch.nn.Parameter) else b"tensor", str(tensor.dtype).encode(),
                    b"grad" if tensor.requires_grad else b"", b"" if tensor.device.type == "cpu" else str(tensor.device).encode(),
                    array_token(array))


def _tensor(tensor: Any) -> Parts:
    torch = sys.modules["torch"]
    items = [(".__class__", type(tensor)), (".__dict__", tensor.__dict__)]
    bare = tensor.detach()
    if tensor.layout is torch.strided:
        return Parts(tuple_of(b"strided", _tensor_token(tensor)), items)
    if tensor.layout is torch.sparse_coo:
        bare = bare.coalesce()
        items += [(".indices()", bare.indices()), (".values()", bare.values())]
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        items += [(".crow_indices()", bare.crow_indices()), (".col_indices()", bare.col_indices()), (".values()", bare.values())]
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        items += [(".ccol_indices()", bare.ccol_indices()), (".row_indices()", bare.row_indices()), (".values()", bare.values())]
    else:
        raise Unstable(f"a tensor of layout {tensor.layout} is not known here; give its dense values")
    outline = (str(tensor.layout).encode(), str(tuple(tensor.shape)).encode(), b"grad" if tensor.requires_grad else b"")
    return Parts(tuple_of(b"sparse tensor", *outline), items)
