"""What this machine lets us use: CPU cores, memory, GPUs.

What a container, an affinity mask or CUDA_VISIBLE_DEVICES withholds does not count. Where something cannot be found out, the
reason is stated, never a number invented. No host name, no address: capabilities are shown and sent around.
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from soma.daemon import cgroups


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Give processes `uuid` in CUDA_VISIBLE_DEVICES: `index` counts as NVML does, CUDA may count otherwise."""

    index: int
    name: str
    uuid: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`cpu_cores` and `num_gpus` are what is offered, also if that was told and not found; `gpus` is what was found."""

    cpu_cores: float
    ram_bytes: int
    num_gpus: float
    gpus: tuple[Gpu, ...]
    gpu_reason: str
    """Why `gpus` is empty or shorter than the machine's list; "" if it is not."""
    python: str
    system: str
    tags: tuple[str, ...] = ()
    """What whoever set the machine up marked it with."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for messages and JSON."""
        return {**asdict(self), "gpus": tuple(asdict(gpu) for gpu in self.gpus)}


def detect(num_cpus: float | None = None, num_gpus: float | None = None, memory: int | None = None,
           tags: tuple[str, ...] = ()) -> Capabilities:
    """Look at the machine. What is given is believed: more CPUs than there are only means more processes at once.

    Args:
        num_cpus, num_gpus: how many to offer; None: all that can be used.
        memory: bytes to offer; None: all that can be used.
        tags: marks that nobody can find out by looking.

    Raises:
        ValueError: a negative or infinite amount.
    """
    for name, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus), ("memory", memory)):
        if amount is not None and not (math.isfinite(amount) and amount >= 0):
            raise ValueError(f"{name}={amount!r}: a number of at least 0")
    limits = cgroups.own_limits()
    gpus, reason = ((), "num_gpus=0 was asked for") if num_gpus == 0 else usable_gpus()
    if num_gpus is not None and len(gpus) > math.ceil(num_gpus) > 0:
        reason = f"num_gpus={num_gpus:g} of {len(gpus)} was asked for"
        gpus = gpus[: math.ceil(num_gpus)]
    return Capabilities(
        cpu_cores=usable_cores(limits) if num_cpus is None else num_cpus,
        ram_bytes=usable_memory(limits) if memory is None else memory,
        num_gpus=len(gpus) if num_gpus is None else num_gpus,
        gpus=gpus,
        gpu_reason=reason,
        python=".".join(map(str, sys.version_info[:3])),
        system=sys.platform,
        tags=tags,
    )


def usable_cores(limits: cgroups.Limits) -> float:
    """Whole cores: the affinity mask and the container's quota, rounded down, but at least one."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return float(there if limits.cpus is None else max(1, min(there, math.floor(limits.cpus + 1e-6))))


def usable_memory(limits: cgroups.Limits) -> int:
    """Bytes of RAM that the container allows; swap does not count."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return there if limits.memory is None else min(there, limits.memory)


def usable_gpus() -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA GPUs that programs started here may use, and why there are none or fewer."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return (), "CUDA_VISIBLE_DEVICES is empty"
    # loading NVML takes longer than all else here; without its devices it could only fail
    if sys.platform.startswith("linux") and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        return (), "no NVIDIA driver is loaded"
    found, reason = _ask_nvml()
    return (found, reason) if visible is None or reason else choose_visible(found, visible)


def choose_visible(found: tuple[Gpu, ...], visible: str) -> tuple[tuple[Gpu, ...], str]:
    """Those that CUDA_VISIBLE_DEVICES=`visible` names, in its order; like CUDA, nothing behind the first unknown name."""
    chosen: list[Gpu] = []
    for name in map(str.strip, visible.split(",")):
        gpus = [gpu for gpu in found if name == str(gpu.index) or len(name) > 4 and gpu.uuid.startswith(name)]
        if len(gpus) != 1 or gpus[0] in chosen:
            return tuple(chosen), f"CUDA_VISIBLE_DEVICES={visible}: {name!r} is not one of {len(found)} GPUs"
        chosen += gpus
    return tuple(chosen), f"CUDA_VISIBLE_DEVICES={visible}" if len(chosen) < len(found) else ""


def _ask_nvml() -> tuple[tuple[Gpu, ...], str]:
    try:
        import pynvml
    except ImportError as e:
        return (), f"NVML cannot be asked: {e}"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        return (), f"NVML cannot be asked: {e}"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        gpus = tuple(Gpu(i, _text(pynvml.nvmlDeviceGetName(h)), _text(pynvml.nvmlDeviceGetUUID(h)),
                         int(pynvml.nvmlDeviceGetMemoryInfo(h).total)) for i, h in enumerate(handles))
    except pynvml.NVMLError as e:
        return (), f"NVML does not answer: {e}"
    finally:
        pynvml.nvmlShutdown()
    return gpus, "" if gpus else "NVML knows of no GPU"


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value
