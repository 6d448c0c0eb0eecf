"""Which GPUs a process may see: CUDA_VISIBLE_DEVICES, from what its reservation was given."""

from __future__ import annotations

from collections.abc import Sequence

from soma.daemon.capabilities import Gpu


def visible_gpus(found: Sequence[Gpu], offered: float, given: Sequence[int]) -> dict[str, str]:
    """The variable for a process that holds the GPUs (or shares of them) numbered `given`; "" hides all.

    Machines that offer none are left alone. `found` may have fewer than were `offered`: the rest goes by number.
    """
    if not offered:
        return {}
    names = [found[i].uuid if i < len(found) else str(i) for i in given]  # CUDA may count otherwise than NVML
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)}
