"""What collective calls take: numpy arrays and CPU tensors, each as one row of numbers over the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from soma.actors.collective.reducing import BFLOAT16, Array


def flat_of(array: Any) -> tuple[Array, str]:
    """The array's elements as one row over the same memory, and the name of their dtype."""
    dtype = ""
    if type(array).__module__.partition(".")[0] == "torch":
        tensor = array.detach()
        if tensor.device.type != "cpu":
            raise ValueError(f"a tensor on {tensor.device} cannot go through shared memory: use backend='nccl', or .cpu()")
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            tensor, dtype = tensor.view(torch.int16), BFLOAT16
        if not tensor.is_contiguous():
            raise ValueError("a tensor that is not contiguous cannot be combined in place: give .contiguous()")
        found = tensor.numpy()
        found = found.view(np.uint16) if dtype else found
    else:
        found = array
    if not isinstance(found, np.ndarray) or not found.flags.c_contiguous or not found.flags.writeable:
        raise ValueError(f"{type(array).__name__}: collective calls take C-contiguous, writable arrays and CPU tensors")
    if found.dtype.kind not in "biufc":
        raise ValueError(f"an array of {found.dtype} holds no numbers, and only those are combined or sent")
    return found.reshape(-1), dtype or found.dtype.name
