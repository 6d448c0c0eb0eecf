"""States of filters in a safetensors file: arrays and tensors as they are, the rest as JSON in the file's metadata.

    write_states({"scale": {"mean": array, "n": 3}}, path)        read_states(path) -> the same

Reading executes no code: what is neither array, tensor, number, text nor a dict, list, tuple or set of such is refused when writing, with
its path, unless `allow_pickle` is given; such a file is refused when reading unless it is given there too. A value arrives as it left:
dtype, shape, Fortran order, torch or numpy, parameters that require a gradient. Written whole or not at all.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from soma.errors import GraphError, NotSerializableError
from soma.transport.codec import decode, encode

FORMAT = "1"
_ATOMS = (bool, int, str, type(None))
_KINDS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def write_states(states: Mapping[str, Any], path: Path, *, allow_pickle: bool = False) -> None:
    """Write states, by node.

    Raises:
        NotSerializableError: a part can only be pickled, and `allow_pickle` is False; its path is named.
        ModuleNotFoundError: safetensors is not installed.
    """
    save_file = _safetensors().save_file
    writer = _Writer(allow_pickle)
    tree = {node: writer.plain(state, f"state[{node!r}]") for node, state in states.items()}
    told = {"soma_states": FORMAT, "pickle": "yes" if writer.pickled else "no", "tree": json.dumps(tree)}
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        save_file(writer.arrays, fresh, metadata=told)  # from where the arrays lie: a second copy of a large model may be one too many
        with open(fresh, "rb") as f:
            os.fsync(f.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def read_states(path: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """What `write_states` wrote.

    Raises:
        GraphError: this is no such file, it is damaged, or parts of it are pickled and `allow_pickle` is False.
        ModuleNotFoundError: safetensors is not installed.
    """
    load = _safetensors().load
    data = path.read_bytes()
    told = _metadata(data, path)
    if told.get("pickle") == "yes" and not allow_pickle:
        raise GraphError(f"{path} holds pickled parts, which run code when they are read: load(…, allow_pickle=True) if you trust it")
    try:
        reader = _Reader(load(data), allow_pickle)
        return {node: reader.made(plain) for node, plain in json.loads(told["tree"]).items()}
    except (ValueError, KeyError, TypeError, AttributeError, _safetensor_error()) as e:
        raise GraphError(f"{path} cannot be read: {type(e).__name__}: {e}") from None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError('states are saved with safetensors: pip install "soma[ml]"', name=e.name) from None
    return safetensors.numpy


def _safetensor_error() -> type[Exception]:
    import safetensors

    found: type[Exception] = safetensors.SafetensorError
    return found


def _metadata(data: bytes, path: Path) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:8 + size]) if 8 + size <= len(data) else {}
    except ValueError:
        header = {}
    told = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(told, dict) or told.get("soma_states") != FORMAT:
        raise GraphError(f"{path} is no file of states that this version of soma wrote")
    return told


class _Writer:
    """Takes values apart into plain data and arrays."""

    def __init__(self, allow_pickle: bool) -> None:
        self._allow_pickle = allow_pickle
        self.arrays: dict[str, Any] = {}
        self.pickled = False

    def plain(self, value: Any, path: str) -> Any:
        """JSON data; what is no atom is an object with its kind under "is"."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is float:
            return {"is": "float", "hex": value.hex()}
        if kind is dict:
            pairs = [[self.plain(k, f"a key of {path}"), self.plain(v, f"{path}[{k!r}]")] for k, v in value.items()]
            return {"is": "dict", "items": pairs}
        if kind in _KINDS.values():
            return {"is": kind.__name__, "items": [self.plain(v, f"{path}[{i}]") for i, v in enumerate(value)]}
        if kind in (bytes, bytearray):
            return {"is": kind.__name__, "base64": base64.b64encode(value).decode()}
        if kind is complex:
            return {"is": "complex", "hex": [value.real.hex(), value.imag.hex()]}
        made = self._array(value) or self._tensor(value)
        return made if made is not None else self._pickle(value, path)

    def _keep(self, array: Any) -> str:
        name = f"t{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def _array(self, value: Any) -> dict[str, Any] | None:
        import numpy as np

        if isinstance(value, np.generic) and value.dtype.kind in "biufcmMSU":
            return {"is": "scalar", "dtype": value.dtype.str, "base64": base64.b64encode(value.tobytes()).decode()}
        if type(value) is not np.ndarray or value.dtype.hasobject or value.dtype.fields is not None:
            return None
        order: Literal["C", "F"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        flat = np.frombuffer(value.tobytes(order), np.uint8) if value.nbytes else np.zeros(0, np.uint8)
        plain = value.dtype.kind in "biuf" and value.dtype.isnative and order == "C" and value.ndim and value.dtype.itemsize <= 8
        return {"is": "array", "dtype": value.dtype.str, "shape": list(value.shape), "order": order,
                "at": self._keep(np.ascontiguousarray(value) if plain else flat)}

    def _tensor(self, value: Any) -> dict[str, Any] | None:
        torch = sys.modules.get("torch")
        if torch is None or type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout is not torch.strided:
            return None
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() if value.numel() else torch.zeros(
            0, dtype=torch.uint8).numpy()
        return {"is": "parameter" if type(value) is torch.nn.Parameter else "tensor", "dtype": str(value.dtype).removeprefix("torch."),
                "shape": list(value.shape), "grad": bool(value.requires_grad), "at": self._keep(flat)}

    def _pickle(self, value: Any, path: str) -> dict[str, Any]:
        if not self._allow_pickle:
            raise NotSerializableError(path, f"a {type(value).__name__} is neither array, tensor, number nor text",
                                       "save(…, allow_pickle=True) pickles it into the file")
        import numpy as np

        self.pickled = True
        packed = encode(value, path=path)
        buffers = [self._keep(np.frombuffer(b, np.uint8)) for b in packed.buffers]
        return {"is": "pickle", "body": self._keep(np.frombuffer(packed.body, np.uint8)), "buffers": buffers}


class _Reader:
    """Puts them together again."""

    def __init__(self, arrays: Mapping[str, Any], allow_pickle: bool) -> None:
        self._arrays, self._allow_pickle = arrays, allow_pickle

    def made(self, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        match plain["is"]:
            case "float":
                return float.fromhex(plain["hex"])
            case "complex":
                return complex(*map(float.fromhex, plain["hex"]))
            case "dict":
                return {self.made(k): self.made(v) for k, v in plain["items"]}
            case "bytes" | "bytearray" as kind:
                data = base64.b64decode(plain["base64"])
                return data if kind == "bytes" else bytearray(data)
            case "scalar":
                import numpy as np

                return np.frombuffer(base64.b64decode(plain["base64"]), np.dtype(plain["dtype"]))[0]
            case "array":
                return self._array(plain)
            case "tensor" | "parameter":
                return self._tensor(plain)
            case "pickle" if self._allow_pickle:
                return decode(self._arrays[plain["body"]].tobytes(), [bytearray(self._arrays[b].tobytes()) for b in plain["buffers"]])
            case kind:
                return _KINDS[kind](self.made(v) for v in plain["items"])

    def _array(self, plain: Mapping[str, Any]) -> Any:
        import numpy as np

        raw = np.ascontiguousarray(self._arrays[plain["at"]])
        dtype, shape = np.dtype(plain["dtype"]), tuple(plain["shape"])
        if not raw.size:
            return np.zeros(shape, dtype)
        return np.ndarray(shape, dtype, bytearray(raw.tobytes()), order=plain["order"])

    def _tensor(self, plain: Mapping[str, Any]) -> Any:
        import torch

        dtype, raw = getattr(torch, plain["dtype"]), self._arrays[plain["at"]]
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{plain['dtype']!r} is no dtype of torch")
        tensor = torch.frombuffer(bytearray(raw.tobytes()), dtype=dtype) if raw.size else torch.empty(0, dtype=dtype)
        tensor = tensor.reshape(plain["shape"])
        if plain["is"] == "parameter":
            return torch.nn.Parameter(tensor, requires_grad=plain["grad"])
        return tensor.requires_grad_() if plain["grad"] else tensor
