"""Random numbers that can be repeated: each node of a graph draws from a seed of its own, derived from the run's."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def derived(seed: int, node: str) -> int:
    """A node's own seed, below 2³²: the same in every process, and unrelated to that of any other node."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{node}".encode(), digest_size=4).digest(), "little")


def reseed(seed: int) -> None:
    """`random`, and as far as they are loaded numpy's global generator and torch, draw from `seed` from now on.

    Not by `torch.manual_seed`: it formats a stack for each kind of device, which takes longer than a small network's step.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed & 0xFFFFFFFF)
    if torch is not None:
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, `random`, numpy's global generator and torch draw from `seed`; afterwards they go on where they were. None: nothing."""
    if seed is None:
        yield
        return
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    before = random.getstate(), numpy and numpy.random.get_state(), torch and torch.random.get_rng_state()
    reseed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        if numpy is not None:
            numpy.random.set_state(before[1])
        if torch is not None:
            torch.random.set_rng_state(before[2])
